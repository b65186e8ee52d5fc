package main

// Selectors of the pod dashboard. A pod's rows are told from other sources' by
// the path they were scraped from; source is the job, and chooses between the
// agent and a kubelet that is scraped beside it. Its name is not job: links carry
// variables along, and the agent dashboard's job is another.
const (
	podRows       = `job="$source", metrics_path="/metrics/cadvisor", namespace="$namespace", pod="$pod"`
	containerRows = podRows + `, container!=""` // neither the pod's own row nor its sandbox's
	requestRows   = `metrics_path="/metrics/apm", k8s_namespace_name="$namespace", k8s_pod_name="$pod"`
)

// One pod: what it uses and how it answers.
var pod = board{
	file:        "pod.json",
	uid:         "nodetap-pod",
	title:       "nodetap / Pod",
	description: "One pod: CPU, memory and network of its containers, the HTTP requests that it answers and makes.",
	variables: []variable{
		{name: "source", label: "job", query: `label_values(container_cpu_usage_seconds_total{metrics_path="/metrics/cadvisor"}, job)`},
		{name: "namespace", label: "namespace", query: `label_values(container_cpu_usage_seconds_total{job="$source", metrics_path="/metrics/cadvisor", namespace!=""}, namespace)`},
		{name: "pod", label: "pod", query: `label_values(container_cpu_usage_seconds_total{job="$source", metrics_path="/metrics/cadvisor", namespace="$namespace", pod!=""}, pod)`},
	},
	rows: []row{
		{"CPU", []panel{
			{title: "CPU", unit: "short", width: 12,
				description: "CPU time of each container in cores, and its limit where it has one.",
				queries: []query{
					{`sum by (container) (rate(container_cpu_usage_seconds_total{` + containerRows + `}[$__rate_interval]))`, "{{container}}"},
					{`max by (container) (container_spec_cpu_quota{` + containerRows + `}) / max by (container) (container_spec_cpu_period{` + containerRows + `})`, "{{container}} limit"},
				}},
			{title: "CPU throttling", unit: "percentunit", width: 12,
				description: "Share of the CPU quota's periods in which the quota was used up and the container had to wait. Containers without a limit are absent.",
				queries: []query{{`sum by (container) (rate(container_cpu_cfs_throttled_periods_total{` + containerRows + `}[$__rate_interval]))` +
					` / sum by (container) (rate(container_cpu_cfs_periods_total{` + containerRows + `}[$__rate_interval]))`, "{{container}}"}}},
		}},
		{"Memory", []panel{
			{title: "Memory", unit: "bytes", width: 12,
				description: "Working set of each container (memory in use without inactive pages of files, what kubelet evicts by), and its limit where it has one.",
				queries: []query{
					{`sum by (container) (container_memory_working_set_bytes{` + containerRows + `})`, "{{container}}"},
					{`max by (container) (container_spec_memory_limit_bytes{` + containerRows + `}) > 0`, "{{container}} limit"},
				}},
			{title: "OOM kills", unit: "short", width: 12,
				description: "Processes of each container that were killed for want of memory, within the shown interval.",
				queries:     []query{{`sum by (container) (increase(container_oom_events_total{` + containerRows + `}[$__rate_interval]))`, "{{container}}"}}},
		}},
		{"Network", []panel{
			{title: "Received", unit: "Bps", width: 8,
				description: "Bytes that the pod received, by interface. A pod on its node's network has none of its own.",
				queries:     []query{{`sum by (interface) (rate(container_network_receive_bytes_total{` + podRows + `}[$__rate_interval]))`, "{{interface}}"}}},
			{title: "Transmitted", unit: "Bps", width: 8,
				description: "Bytes that the pod transmitted, by interface.",
				queries:     []query{{`sum by (interface) (rate(container_network_transmit_bytes_total{` + podRows + `}[$__rate_interval]))`, "{{interface}}"}}},
			{title: "Packets lost", unit: "pps", width: 8,
				description: "Packets that were dropped or had errors.",
				queries: []query{
					{`sum(rate(container_network_receive_packets_dropped_total{` + podRows + `}[$__rate_interval]))`, "received, dropped"},
					{`sum(rate(container_network_transmit_packets_dropped_total{` + podRows + `}[$__rate_interval]))`, "transmitted, dropped"},
					{`sum(rate(container_network_receive_errors_total{` + podRows + `}[$__rate_interval]))`, "received, errors"},
					{`sum(rate(container_network_transmit_errors_total{` + podRows + `}[$__rate_interval]))`, "transmitted, errors"},
				}},
		}},
		{"HTTP requests answered", []panel{
			{title: "Requests answered", unit: "reqps", width: 8,
				description: "Requests that the pod answered, by route. Routes are guessed from paths; requests beyond max_series have none.",
				queries:     []query{{`sum by (http_request_method, http_route) (rate(http_server_request_duration_seconds_count{` + requestRows + `}[$__rate_interval]))`, "{{http_request_method}} {{http_route}}"}}},
			{title: "Errors answered", unit: "percentunit", width: 8,
				description: "Share of requests that the pod answered with a status from 500 or not at all: all, and by error.",
				queries:     errorShares("http_server_request_duration_seconds_count"),
			},
			{title: "Time to answer", unit: "s", width: 8,
				description: "Time from a request's first byte received to the response's last byte sent: half, 95% and 99% of requests took no longer.",
				queries:     quantiles("http_server_request_duration_seconds_bucket"),
			},
		}},
		{"HTTP requests made", []panel{
			{title: "Requests made", unit: "reqps", width: 8,
				description: "Requests that the pod made, by the server's address.",
				queries:     []query{{`sum by (http_request_method, server_address) (rate(http_client_request_duration_seconds_count{` + requestRows + `}[$__rate_interval]))`, "{{http_request_method}} {{server_address}}"}}},
			{title: "Errors received", unit: "percentunit", width: 8,
				description: "Share of requests that were answered to the pod with a status from 400 or not at all: all, and by error.",
				queries:     errorShares("http_client_request_duration_seconds_count"),
			},
			{title: "Time to be answered", unit: "s", width: 8,
				description: "Time from a request's first byte sent to the response's last byte received: half, 95% and 99% of requests took no longer.",
				queries:     quantiles("http_client_request_duration_seconds_bucket"),
			},
		}},
	},
}

// errorShares is the share of all errors, 0 without any, and of each.
func errorShares(count string) []query {
	all := `sum(rate(` + count + `{` + requestRows + `}[$__rate_interval]))`
	failed := `(rate(` + count + `{` + requestRows + `, error_type!=""}[$__rate_interval]))`
	return []query{
		{`(sum ` + failed + ` or vector(0)) / ` + all, "all"},
		{`sum by (error_type) ` + failed + ` / on () group_left () ` + all, "{{error_type}}"},
	}
}

func quantiles(bucket string) []query {
	var out []query
	for _, q := range []struct{ of, name string }{{"0.5", "p50"}, {"0.95", "p95"}, {"0.99", "p99"}} {
		out = append(out, query{`histogram_quantile(` + q.of + `, sum by (le) (rate(` + bucket + `{` + requestRows + `}[$__rate_interval])))`, q.name})
	}
	return out
}
