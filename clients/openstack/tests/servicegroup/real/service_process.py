"""A service as nova runs them: nova's settings, nova's threads or eventlet, oslo's launcher with its
timers and workers, nova's ``servicegroup.API``. What lies between, the database and the message bus,
is not there.

    service_process.py CONFIG_FILE HOST TOPIC WORKERS"""

from __future__ import annotations

# As in nova's own programs: before anything else.
from nova import monkey_patch

monkey_patch.patch(backend="threading")

import sys  # noqa: E402
from typing import Any  # noqa: E402

import nova.conf  # noqa: E402
from nova import servicegroup  # noqa: E402
from oslo_log import log as logging  # noqa: E402
from oslo_service import service as oslo_service  # noqa: E402

CONF = nova.conf.CONF


class Service(oslo_service.Service):  # type: ignore[misc]
    """What a driver sees of ``nova.service.Service``."""

    def __init__(self, host: str, topic: str) -> None:
        super().__init__()
        self.host = host
        self.topic = topic
        self.binary = f"nova-{topic}"
        self.report_interval = CONF.report_interval
        # Made before the workers are forked, as in nova.
        self.servicegroup_api = servicegroup.API()
        self.model_disconnected = False

    def start(self) -> Any:
        self.servicegroup_api.join(self.host, self.topic, self)


def main() -> None:
    file, host, topic, workers = sys.argv[1:]
    logging.register_options(CONF)
    CONF(["--config-file", file], project="nova", default_config_files=[])
    logging.setup(CONF, "nova")
    count = int(workers)
    launched = oslo_service.launch(
        CONF, Service(host, topic), workers=count, restart_method="mutate", no_fork=count == 1
    )
    launched.wait()


main()
