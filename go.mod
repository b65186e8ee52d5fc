module nodetap

go 1.26
