//go:build vm

package node

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be the workloads too: a guest has no other
// programs.
func TestMain(m *testing.M) {
	workloads := map[string]func([]string) error{"serve": serve, "call": call, "burn": burn}
	if len(os.Args) > 1 {
		if run := workloads[os.Args[1]]; run != nil {
			if err := run(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}

// workload is the command that runs one of TestMain's workloads.
func workload(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// serve answers HTTP on the address: 200 to everything but /missing.
func serve(args []string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/missing", http.NotFound)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return http.Serve(l, mux)
}

// call opens one connection to the address, then sends a request over it for
// each line of its input, "METHOD path", and prints the status.
func call(args []string) error {
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	br := bufio.NewReader(conn)
	fmt.Println("connected")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		method, path, _ := strings.Cut(in.Text(), " ")
		req, err := http.NewRequest(method, "http://"+args[0]+path, nil)
		if err != nil {
			return err
		}
		if err := req.Write(conn); err != nil {
			return err
		}
		res, err := http.ReadResponse(br, req)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		res.Body.Close()
		fmt.Println(res.StatusCode)
	}
	return in.Err()
}

// burn takes memory, burns a processor for the duration, says
// so and then holds still: from there on what the kernel accounts to it stays.
func burn(args []string) error {
	want, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	held := make([]byte, burnedBytes)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	for start := time.Now(); time.Since(start) < want; {
		held[0]++
	}
	fmt.Println("done")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// What burn uses: so much memory, and so much time on a processor that nobody
// else wants.
const (
	burnedBytes   = 64 << 20
	burnedSeconds = 2
)
