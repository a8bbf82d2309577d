"""Nova's service groups on Roster: which services are up, without a question to anybody.

How it works:

- **A group is an app**, named ``prefix`` + topic: ``nova.compute``, ``nova.scheduler``. Give each
  region a prefix of its own if several share a Roster; cells share one, since hosts have names of
  their own across them.
- **A process is an instance**, ``host/pid``, on a session that lives for ``service_down_time`` and is
  renewed each ``report_interval`` from the service's own timer. Several processes of a host are one
  member: it is up while any of them is. A process that finds its id taken by another one that lives
  (two containers, each with a process 1) goes on as ``host/pid/<8 hex digits>``.
- **Questions are answered from a copy** of the group in this process, kept by a watch. It is checked
  against a majority of the nodes in the background; a copy that could not be checked for longer than
  ``service_down_time`` is not believed any more, and :class:`ServiceGroupUnavailable
  <roster_openstack.servicegroup.driver.ServiceGroupUnavailable>` is raised: nobody can tell who is up,
  which is not the same as that all are down.

What an instance carries, for those who list services:

==================  ================================================================================
``hostname``        the service's host
``ip``, ``port``    nova's ``my_ip``; 0
``version``         nova's
``zone``            the setting ``zone``, else what nova says of hosts that no aggregate puts elsewhere
metadata:
``servicegroup``    ``nova``: marks all that this driver registers
``binary``          ``nova-compute``
``topic``           ``compute``
``host``            the service's host: read it here, not from the id
``pid``             the process id
==================  ================================================================================

Nova's ``nova.conf`` switches it on (:mod:`roster_openstack.servicegroup.switch`). Importing this
package imports nothing of nova and nothing that is sensitive to eventlet's monkey patching.
"""

from .switch import enable

__all__ = ["enable"]
