// Package promparse checks what exporters/prom serves with Prometheus' own
// parser. It is a module of its own, because Prometheus' would bring hundreds of
// others into the agent's go.sum.
package promparse
