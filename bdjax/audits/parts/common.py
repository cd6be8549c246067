"""What audits share."""

from bdjax.types import Net


def original(net: Net) -> Net:
    """The network as it was before a defense changed it; the clean and the backdoored model are of that one."""
    return net.plain or net
