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
// that cannot pass there, with the reason: they may skip or fail. An entry that
// names a test which passes is a fault too, so that the list stays true. A name
// stands for the test's subtests too. refusal, unless "", is what a test says
// that fails because the kernel refuses all that the package is for; then one
// test at least has to say it.
func judge(results []result, exit plan.Event, lacks map[string]string, refusal string) (summary string, faults []string) {
	passed, failed := 0, 0
	known := map[string]bool{} // tests
	used := map[string]bool{}  // entries of lacks
	refused := false           // a known test failed, which fails its parents and the program too
	saidIt := false
	for _, r := range results {
		if refusal != "" && r.status == "FAIL" && strings.Contains(strings.Join(r.output, "\n"), refusal) {
			known[r.name], saidIt, refused = true, true, true
		}
		for name := range lacks {
			below := strings.HasPrefix(r.name, name+"/")
			if (r.name == name || below) && (r.status == "SKIP" || r.status == "FAIL") {
				known[r.name], used[name] = true, true
				refused = refused || r.status == "FAIL"
			}
		}
	}
	for _, r := range results {
		out := strings.Join(r.output, "\n")
		switch {
		case known[r.name]:
		case r.status == "PASS":
			passed++
		case r.status == "SKIP":
			faults = append(faults, fmt.Sprintf("%s was skipped, and nothing says that this kernel lacks what it needs:\n%s", r.name, out))
		case r.status == "FAIL" && failedByChildren(r, results, known):
		case r.status == "FAIL":
			failed++
			faults = append(faults, fmt.Sprintf("%s failed after %s:\n%s", r.name, r.took, out))
		case r.name != "":
			failed++
			faults = append(faults, fmt.Sprintf("%s did not end:\n%s", r.name, out))
		case exit.Code != 0 && out != "":
			faults = append(faults, "output outside of the tests:\n"+out)
		}
	}
	for name, reason := range lacks {
		if !used[name] {
			faults = append(faults, fmt.Sprintf("%s is said to be impossible here (%s) but passed or did not run: take it off the list", name, reason))
		}
	}
	if refusal != "" && !saidIt {
		faults = append(faults, fmt.Sprintf("no test failed with %q: this kernel refuses nothing any more", refusal))
	}
	switch {
	case exit.Kind != plan.Exit:
		faults = append(faults, "the program did not end")
	case exit.Code == 1 && refused:
	case exit.Code != 0:
		faults = append(faults, fmt.Sprintf("exit code %d %s after %d ms", exit.Code, exit.Text, exit.Millis))
	}
	if passed == 0 {
		faults = append(faults, "no test passed")
	}
	return fmt.Sprintf("%d passed, %d impossible here, %d failed, %.1f s", passed, len(known), failed, float64(exit.Millis)/1000), faults
}

// failedByChildren tells whether a test failed for no reason but its subtests,
// and those of them that failed are known.
func failedByChildren(parent result, results []result, known map[string]bool) bool {
	found := false
	for _, r := range results {
		if strings.HasPrefix(r.name, parent.name+"/") && r.status == "FAIL" {
			if !known[r.name] && !failedByChildren(r, results, known) {
				return false
			}
			found = true
		}
	}
	return found && len(parent.output) == 0
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

func TestJudge(t *testing.T) {
	test := func(name, status string, output ...string) result {
		return result{name: name, status: status, output: output}
	}
	ok, one := plan.Event{Kind: plan.Exit}, plan.Event{Kind: plan.Exit, Code: 1}
	a := test("TestA", "PASS")
	for name, c := range map[string]struct {
		results []result
		exit    plan.Event
		lacks   string // name of a test
		refusal string
		faults  int
	}{
		"all passed":     {results: []result{a}, exit: ok},
		"nothing ran":    {exit: ok, faults: 1},
		"skipped":        {results: []result{a, test("TestB", "SKIP")}, exit: ok, faults: 1},
		"skip is known":  {results: []result{a, test("TestB", "SKIP")}, exit: ok, lacks: "TestB"},
		"known passes":   {results: []result{a}, exit: ok, lacks: "TestA", faults: 1},
		"known is gone":  {results: []result{a}, exit: ok, lacks: "TestC", faults: 1},
		"failed":         {results: []result{a, test("TestB", "FAIL")}, exit: one, faults: 2},
		"known fails":    {results: []result{a, test("TestB", "FAIL"), test("TestB/c", "FAIL")}, exit: one, lacks: "TestB/c"},
		"below known":    {results: []result{a, test("TestB", "FAIL"), test("TestB/c", "FAIL")}, exit: one, lacks: "TestB"},
		"below skips":    {results: []result{a, test("TestB", "PASS"), test("TestB/c", "SKIP")}, exit: ok, lacks: "TestB"},
		"sibling fails":  {results: []result{a, test("TestB", "FAIL"), test("TestB/c", "FAIL"), test("TestB/d", "FAIL")}, exit: one, lacks: "TestB/c", faults: 2},
		"parent fails":   {results: []result{a, test("TestB", "FAIL", "why"), test("TestB/c", "FAIL")}, exit: one, lacks: "TestB/c", faults: 1},
		"refused":        {results: []result{a, test("TestB", "FAIL", "kernel says no")}, exit: one, refusal: "says no"},
		"parent refused": {results: []result{a, test("TestB", "FAIL"), test("TestB/c", "FAIL", "says no")}, exit: one, refusal: "says no"},
		"none refused":   {results: []result{a}, exit: ok, refusal: "says no", faults: 1},
		"other reason":   {results: []result{a, test("TestB", "FAIL", "bad"), test("TestC", "FAIL", "says no")}, exit: one, refusal: "says no", faults: 1},
		"known panics":   {results: []result{a, test("TestB", "FAIL")}, exit: plan.Event{Kind: plan.Exit, Code: 2}, lacks: "TestB", faults: 1},
		"did not end":    {results: []result{a, test("TestB", "")}, exit: plan.Event{Kind: plan.Exit, Code: 2}, faults: 2},
		"killed":         {results: []result{a}, exit: plan.Event{Kind: plan.Exit, Code: -1, Text: "killed"}, faults: 1},
		"machine died":   {results: []result{a}, faults: 1},
		"no test failed": {results: []result{a, test("", "", "panic")}, exit: one, faults: 2},
	} {
		t.Run(name, func(t *testing.T) {
			lacks := map[string]string{}
			if c.lacks != "" {
				lacks[c.lacks] = "why"
			}
			if _, faults := judge(c.results, c.exit, lacks, c.refusal); len(faults) != c.faults {
				t.Errorf("%d faults, want %d: %q", len(faults), c.faults, faults)
			}
		})
	}
}
