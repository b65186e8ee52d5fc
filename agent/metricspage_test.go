package main

import "testing"

func metricsPage(t *testing.T) string { return "" }
