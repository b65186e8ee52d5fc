// Command dashboards writes Grafana's dashboards about the agent and about what
// it measures into the current directory, as classic JSON:
//
//	cd dashboards && go run .
//
// A dashboard is a value (agent.go, pod.go); board.go turns it into Grafana's
// model. The tests hold every query against the metrics that the agent has.
//
// It is a module of its own, so that Grafana's SDK is no dependency of the agent.
package main

import (
	"fmt"
	"os"
)

// boards are the dashboards, each in the file of its name.
var boards = []board{agent, pod}

func main() {
	for _, b := range boards {
		out, err := b.json()
		if err == nil {
			err = os.WriteFile(b.file, out, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", b.file, err)
			os.Exit(1)
		}
	}
}
