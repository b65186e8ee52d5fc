package cgroup

import (
	"slices"

	"nodetap/agent/metrics"
)

// Collect implements metrics.Source.
func (c *Collector) Collect(b *metrics.Builder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range families {
		f := &families[m]
		out := b.Family(f.desc)
		out.Series = slices.Grow(out.Series, len(c.rows))
		counter := f.desc.Type == metrics.Counter
		for _, u := range c.rows {
			r := &u.row
			if !r.shown || r.has&(1<<m) == 0 {
				continue
			}
			s := metrics.Series{Labels: r.labels.sets[f.set], Resource: r.resource, Value: r.v[m]}
			if counter {
				s.Created = r.created
			}
			out.Series = append(out.Series, s)
		}
	}
	for _, f := range ioFamilies {
		out := b.Family(f.desc)
		for _, u := range c.rows {
			for i := range u.row.io {
				if d := &u.row.io[i]; u.row.shown {
					out.Series = append(out.Series, metrics.Series{Labels: d.labels, Resource: u.row.resource,
						Value: float64(f.get(&d.ioCounts)), Created: u.row.created})
				}
			}
		}
	}
	for _, f := range netFamilies {
		out := b.Family(f.desc)
		for _, u := range c.rows {
			for i := range u.row.net {
				if n := &u.row.net[i]; u.row.shown {
					out.Series = append(out.Series, metrics.Series{Labels: n.labels, Resource: u.row.resource,
						Value: float64(f.get(&n.netCounts)), Created: u.row.created})
				}
			}
		}
	}
	for _, r := range c.machineRows {
		b.Add(r.desc, metrics.Series{Labels: c.machine.labels, Value: r.value})
	}
}
