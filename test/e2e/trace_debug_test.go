//go:build e2e

package e2e

import "testing"

func TestDemoWorks(t *testing.T) {
	calls, err := front(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		t.Log(c)
	}
}
