"""OpenStack services on Roster.

- :mod:`roster_openstack.tooz_driver`: tooz's coordination on Roster, URLs ``roster://``
- :mod:`roster_openstack.servicegroup`: Nova's service groups on Roster
"""
