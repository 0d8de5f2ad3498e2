"""Where a user goes: one L{mailgw.interfaces.IRoutingRule} a file, the router over them, and the pools."""
