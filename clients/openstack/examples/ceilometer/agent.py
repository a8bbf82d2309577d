"""One polling agent: ceilometer's own manager, run until it is told to stop."""

from __future__ import annotations

import logging
import signal
import sys
import threading


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    from ceilometer import service
    from ceilometer.polling import manager

    configuration = service.prepare_service(argv=["agent"], config_files=[sys.argv[1]])
    logging.getLogger("ceilometer.polling").setLevel(logging.WARNING)
    agent = manager.AgentManager(0, configuration, namespaces=["central"])
    agent.run()
    stop.wait()
    agent.terminate()


main()
