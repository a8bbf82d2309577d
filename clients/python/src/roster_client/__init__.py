from .errors import InvalidRequest, RingError
from .ring import RingView
