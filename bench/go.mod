module mailgw/bench

go 1.19
