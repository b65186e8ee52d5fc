// Command demo is what the end-to-end tests watch: a front that calls services,
// a service, and a writer of numbered lines. The same service exists in Python,
// JavaScript and Java beside this file, each with its language's own server and
// client, because what an HTTP library writes in which system calls differs.
//
//	demo serve          the service: /items/N /items (POST) /stream /missing /fail /slow /chain
//	demo front          /run?n=N calls every service in $BACKENDS and tells what it did
//	demo burn           keeps a thread busy and 32 MiB in memory
//	demo lines N RATE   N numbered lines, RATE a second, every 500th of 40,000 bytes; then waits
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-stop; os.Exit(0) }()
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		fail(serve())
	case len(os.Args) == 2 && os.Args[1] == "front":
		fail(front())
	case len(os.Args) == 2 && os.Args[1] == "burn":
		hold := bytes.Repeat([]byte("memory"), 32<<20/6)
		for i := 0; ; i++ {
			hold[i%len(hold)]++
		}
	case len(os.Args) == 4 && os.Args[1] == "lines":
		lines(number(2), number(3))
	default:
		fmt.Fprintln(os.Stderr, "usage: demo serve | front | burn | lines N RATE")
		os.Exit(2)
	}
}

func number(arg int) int {
	n, err := strconv.Atoi(os.Args[arg])
	if err != nil || n <= 0 {
		fmt.Fprintf(os.Stderr, "demo: %q is no number\n", os.Args[arg])
		os.Exit(2)
	}
	return n
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "demo:", err)
	os.Exit(1)
}
