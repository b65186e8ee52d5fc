//go:build vm

package vm

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nodetap/test/vm/plan"
)

// result is one test of a test binary, as its output told.
type result struct {
	name   string
	status string // PASS, FAIL or SKIP; "" when the binary ended within it
	took   string // on the guest's clock
	output []string
}

// Lines of the testing package carry this mark under -test.v=test2json, which
// tells them from a line that the code under test printed.
const testMark = "\x16"

var (
	beginLine = regexp.MustCompile(testMark + `=== (?:RUN|CONT|NAME) *(\S*)`)
	endLine   = regexp.MustCompile(testMark + `--- (PASS|FAIL|SKIP): (\S+) \((\S+)\)`)
)

// results sorts a test binary's output by test, in the order of first mention.
// Output outside of any test (a panic in TestMain) stands under the name "".
func results(lines []string) []result {
	var all []result
	at := map[string]int{}
	test := func(name string) *result {
		i, ok := at[name]
		if !ok {
			i = len(all)
			at[name] = i
			all = append(all, result{name: name})
		}
		return &all[i]
	}
	current := ""
	for _, line := range lines {
		if m := endLine.FindStringSubmatch(line); m != nil {
			r := test(m[2])
			r.status, r.took = m[1], m[3]
			current = ""
			continue
		}
		if m := beginLine.FindStringSubmatch(line); m != nil {
			if current = m[1]; current != "" {
				test(current)
			}
			continue
		}
		line = strings.ReplaceAll(line, testMark, "")
		if strings.HasPrefix(line, "=== ") || line == "PASS" || line == "FAIL" {
			continue
		}
		r := test(current)
		r.output = append(r.output, line)
	}
	return all
}

// judge reports what a binary's run on a kernel proves. lacks names the tests
// that may skip there, with the reason; an entry that names a test which no
// longer skips is reported too, so that the list stays true.
func judge(results []result, exit plan.Event, lacks map[string]string) (summary string, faults []string) {
	count := map[string]int{}
	skipped := map[string]bool{}
	for _, r := range results {
		out := strings.Join(r.output, "\n")
		switch r.status {
		case "PASS":
			count["passed"]++
		case "SKIP":
			if _, ok := lacks[r.name]; ok {
				skipped[r.name] = true
			} else {
				faults = append(faults, fmt.Sprintf("%s was skipped, and nothing says that this kernel lacks what it needs:\n%s", r.name, out))
			}
		case "FAIL":
			count["failed"]++
			faults = append(faults, fmt.Sprintf("%s failed after %s:\n%s", r.name, r.took, out))
		default:
			if r.name == "" {
				if exit.Code != 0 {
					faults = append(faults, "output outside of the tests:\n"+out)
				}
				continue
			}
			faults = append(faults, fmt.Sprintf("%s did not end:\n%s", r.name, out))
		}
	}
	for name, reason := range lacks {
		if !skipped[name] {
			faults = append(faults, fmt.Sprintf("%s is listed as skipped (%s) but did not skip: take it off the list", name, reason))
		}
	}
	if exit.Kind != plan.Exit {
		faults = append(faults, "the program did not end")
	} else if exit.Code != 0 {
		faults = append(faults, fmt.Sprintf("exit code %d %s after %d ms", exit.Code, exit.Text, exit.Millis))
	}
	if count["passed"] == 0 {
		faults = append(faults, "no test passed")
	}
	return fmt.Sprintf("%d passed, %d skipped as known, %d failed, %.1f s",
		count["passed"], len(skipped), count["failed"], float64(exit.Millis)/1000), faults
}

func TestResultsOfATestBinary(t *testing.T) {
	got := results([]string{
		"\x16=== RUN   TestA",
		"    a_test.go:1: hello",
		"--- FAIL: TestFaked (0.00s)", // printed by the code under test
		"\x16=== RUN   TestA/sub_one",
		"    a_test.go:2: no such hook",
		"\x16--- SKIP: TestA/sub_one (0.01s)",
		"\x16=== NAME  TestA",
		"    a_test.go:3: after",
		"no newline\x16--- PASS: TestA (1.50s)",
		"\x16=== NAME  ",
		"\x16=== RUN   TestB",
		"panic: boom",
	})
	want := []result{
		{name: "TestA", status: "PASS", took: "1.50s", output: []string{"    a_test.go:1: hello", "--- FAIL: TestFaked (0.00s)", "    a_test.go:3: after"}},
		{name: "TestA/sub_one", status: "SKIP", took: "0.01s", output: []string{"    a_test.go:2: no such hook"}},
		{name: "TestB", output: []string{"panic: boom"}},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(result{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestJudgeTakesSkipsForFaults(t *testing.T) {
	passed := result{name: "TestA", status: "PASS"}
	ok := plan.Event{Kind: plan.Exit}
	for name, c := range map[string]struct {
		results []result
		exit    plan.Event
		lacks   map[string]string
		faults  int
	}{
		"all passed":     {results: []result{passed}, exit: ok},
		"nothing ran":    {exit: ok, faults: 1},
		"skipped":        {results: []result{passed, {name: "TestB", status: "SKIP"}}, exit: ok, faults: 1},
		"skip is known":  {results: []result{passed, {name: "TestB", status: "SKIP"}}, exit: ok, lacks: map[string]string{"TestB": "why"}},
		"skip was known": {results: []result{passed}, exit: ok, lacks: map[string]string{"TestA": "why"}, faults: 1},
		"failed":         {results: []result{passed, {name: "TestB", status: "FAIL"}}, exit: plan.Event{Kind: plan.Exit, Code: 1}, faults: 2},
		"did not end":    {results: []result{passed, {name: "TestB"}}, exit: plan.Event{Kind: plan.Exit, Code: 2}, faults: 2},
		"killed":         {results: []result{passed}, exit: plan.Event{Kind: plan.Exit, Code: -1, Text: "killed"}, faults: 1},
		"machine died":   {results: []result{passed}, faults: 1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, faults := judge(c.results, c.exit, c.lacks); len(faults) != c.faults {
				t.Errorf("%d faults, want %d: %q", len(faults), c.faults, faults)
			}
		})
	}
}
