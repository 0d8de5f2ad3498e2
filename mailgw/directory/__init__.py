"""Who a user is: one L{mailgw.interfaces.IDirectory} a file, and the chain and cache over them."""
