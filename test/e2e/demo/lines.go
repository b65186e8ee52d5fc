package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"
)

// lines writes lines that say who wrote them and in which place, on stdout, and
// the same on stderr for every hundredth, with a number of its own. What is in
// a line must be found again in its tags.
func lines(n, rate int) {
	who := fmt.Sprintf("run=%s pod=%s container=%s", os.Getenv("RUN"), os.Getenv("POD"), os.Getenv("CONTAINER"))
	pad := strings.Repeat("x", 60)
	w := bufio.NewWriter(os.Stdout)
	tick := time.NewTicker(20 * time.Millisecond)
	start, done, errs := time.Now(), 0, 0
	for done < n {
		<-tick.C
		for due := min(n, int(time.Since(start).Seconds()*float64(rate))); done < due; {
			done++
			if done%500 == 0 { // longer than the runtime writes at once
				fmt.Fprintf(w, "%s n=%d of=%d %s END\n", who, done, n, strings.Repeat("0123456789", 4000))
			} else {
				fmt.Fprintf(w, "%s n=%d of=%d %s\n", who, done, n, pad)
			}
			if done%100 == 0 {
				w.Flush()
				errs++
				fmt.Fprintf(os.Stderr, "%s e=%d of=%d\n", who, errs, n/100)
			}
		}
		w.Flush()
	}
	if os.Getenv("THEN") != "exit" {
		select {}
	}
}
