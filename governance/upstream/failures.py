"""Three ways to fail, told apart because money hangs on them."""


class NotReached(Exception):
    """No byte of the request was sent: nothing can have been billed."""


class Lost(Exception):
    """The connection broke after the request may have been sent; upstream may have worked and billed."""


class TimedOut(Exception):
    """No answer within the time limit; upstream may have worked and billed."""
