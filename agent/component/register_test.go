package component

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestRegisterKeepsTheCounterOfAnEarlierLife(t *testing.T) {
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"exporter": "x"}, prometheus.NewRegistry())
	opts := prometheus.CounterOpts{Name: "a_total", Help: "h"}
	first := Register(reg, prometheus.NewCounter(opts))
	if second := Register(reg, prometheus.NewCounter(opts)); second != first {
		t.Error("a second counter was made")
	}
}
