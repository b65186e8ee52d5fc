package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// board is a dashboard.
type board struct {
	file        string
	uid         string // never changes: links and imports go by it
	title       string
	description string
	variables   []variable // after datasource, each may use those before it
	rows        []row
}

// variable is a choice at the top of a dashboard.
type variable struct {
	name, label string
	query       string // label_values(series, label)
	multi       bool   // several or all: queries match it by =~
}

type row struct {
	title  string
	panels []panel
}

// panel is a graph, or a single number.
type panel struct {
	title       string
	description string
	unit        string // Grafana's id; short for cores and counts
	number      bool   // the last value, large
	bad         bool   // of a number: red above 0
	width       uint32 // of 24 columns
	queries     []query
}

type query struct {
	expr   string
	legend string
}

const panelHeight = 8

func (b board) json() ([]byte, error) {
	d := dashboard.NewDashboardBuilder(b.title).
		Uid(b.uid).
		Description(b.description).
		Tags([]string{"nodetap"}).
		Readonly().
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Refresh("30s").
		Time("now-1h", "now").
		Timezone("browser").
		Link(dashboard.NewDashboardLinkBuilder("nodetap").Type(dashboard.DashboardLinkTypeDashboards).
			Tags([]string{"nodetap"}).Icon("external link").AsDropdown(true).IncludeVars(true).KeepTime(true)).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("data source").Type("prometheus"))
	for _, v := range b.variables {
		d.WithVariable(v.build())
	}
	id := uint32(0)
	for _, r := range b.rows {
		id++
		d.WithRow(dashboard.NewRowBuilder(r.title).Id(id))
		for _, p := range r.panels {
			id++
			d.WithPanel(p.build(id))
		}
	}
	built, err := d.Build()
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", b.uid, err)
	}
	for i := range built.Links {
		built.Links[i].Placement = nil // the SDK's default hides them in a menu
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false) // > and & in queries stay readable
	e.SetIndent("", "  ")
	if err := e.Encode(built); err != nil {
		return nil, fmt.Errorf("encode %s: %w", b.uid, err)
	}
	return out.Bytes(), nil
}

func datasource() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

func (v variable) build() cog.Builder[dashboard.VariableModel] {
	q := dashboard.NewQueryVariableBuilder(v.name).
		Label(v.label).
		Datasource(datasource()).
		// The shape that Grafana's query editor saves for label_values.
		Query(dashboard.StringOrMap{Map: map[string]any{"qryType": 1, "query": v.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}}).
		Definition(v.query).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
		Sort(dashboard.VariableSortNaturalAsc)
	if v.multi {
		q.Multi(true).IncludeAll(true).AllValue(".*").Current(dashboard.VariableOption{
			Selected: cog.ToPtr(true),
			Text:     dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}},
			Value:    dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}},
		})
	}
	return q
}

func (p panel) build(id uint32) cog.Builder[dashboard.Panel] {
	if p.number {
		s := stat.NewPanelBuilder().Id(id).Title(p.title).Description(p.description).Unit(p.unit).
			Datasource(datasource()).Height(panelHeight / 2).Span(p.width).
			ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
			GraphMode(common.BigValueGraphModeNone).
			ColorMode(common.BigValueColorModeValue).
			Thresholds(p.thresholds())
		for i, q := range p.queries {
			s.WithTarget(q.build(i))
		}
		return s
	}
	g := timeseries.NewPanelBuilder().Id(id).Title(p.title).Description(p.description).Unit(p.unit).
		Datasource(datasource()).Height(panelHeight).Span(p.width).
		Min(0).
		FillOpacity(10).
		ShowPoints(common.VisibilityModeNever).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
	for i, q := range p.queries {
		g.WithTarget(q.build(i))
	}
	return g
}

func (p panel) thresholds() cog.Builder[dashboard.ThresholdsConfig] {
	steps := []dashboard.Threshold{{Color: "green"}}
	if p.bad {
		steps = append(steps, dashboard.Threshold{Value: cog.ToPtr(1e-9), Color: "red"})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps)
}

func (q query) build(i int) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().
		Datasource(datasource()).
		RefId(string(rune('A' + i))).
		Expr(q.expr).
		LegendFormat(q.legend).
		Range()
}
