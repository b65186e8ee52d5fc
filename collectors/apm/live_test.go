package apm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The tests in this file run real programs against each other on the loopback
// and count their requests. Our own process is excluded at the source, so that
// every server and client is another process: this test binary again, or the
// program named.

func free(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// spawn starts a process and ends it with the test.
func spawn(t *testing.T, env []string, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s is needed by this test (test/setup installs it): %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

// helper runs one of the programs below in a process of its own.
func helper(t *testing.T, what string, args ...string) *exec.Cmd {
	t.Helper()
	return spawn(t, []string{"APM_TEST_HELPER=" + what}, os.Args[0], append([]string{"-test.run=^TestHelper$"}, args...)...)
}

// run runs one to its end.
func run1(t *testing.T, what string, args ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-test.run=^TestHelper$"}, args...)...)
	cmd.Env = append(os.Environ(), "APM_TEST_HELPER="+what)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", what, err, out)
	}
	return string(out)
}

func listening(t *testing.T, port int) {
	t.Helper()
	if !wait(func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err == nil
	}) {
		t.Fatalf("nothing listens on port %d", port)
	}
}

// TestHelper is no test: it is the other processes.
func TestHelper(t *testing.T) {
	what := os.Getenv("APM_TEST_HELPER")
	if what == "" {
		return
	}
	args := os.Args[2:]
	h, ok := helpers[what]
	if !ok {
		h, ok = vectorHelpers[what]
	}
	if !ok {
		t.Fatalf("no helper %q", what)
	}
	h(args)
	os.Exit(0)
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return v
}

var helpers = map[string]func(args []string){
	// go-server PORT: /ok, /chunked, /echo, /fail, /sleep
	"go-server": func(args []string) {
		mux := http.NewServeMux()
		mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
		mux.HandleFunc("/users/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "user") })
		mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
		mux.HandleFunc("/fail", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
		mux.HandleFunc("/sleep", func(w http.ResponseWriter, _ *http.Request) { time.Sleep(100 * time.Millisecond) })
		mux.HandleFunc("/chunked", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 20 {
				fmt.Fprintf(w, "part %d %s\n", i, strings.Repeat("x", i*700))
				w.(http.Flusher).Flush()
			}
		})
		must(0, http.ListenAndServe("127.0.0.1:"+args[0], mux))
	},
	// go-client URL N [traceparent]: N requests on one connection
	"go-client": func(args []string) {
		var n int
		must(fmt.Sscan(args[1], &n))
		for i := range n {
			req := must(http.NewRequest("GET", strings.ReplaceAll(args[0], "{i}", fmt.Sprint(1000+i)), nil))
			if len(args) > 2 {
				req.Header.Set("traceparent", args[2])
			}
			res := must(http.DefaultClient.Do(req))
			must(io.Copy(io.Discard, res.Body))
			res.Body.Close()
		}
	},
	// raw ADDR: copies stdin to the connection piece by piece, one write for each
	// line ("\n" in it by %0a, "\r" by %0d), then reads until the server closes
	"raw": func(args []string) {
		c := must(net.Dial("tcp", args[0]))
		for _, piece := range args[1:] {
			must(c.Write([]byte(strings.NewReplacer("%0d", "\r", "%0a", "\n").Replace(piece))))
			time.Sleep(time.Millisecond)
		}
		must(io.Copy(struct{ io.Writer }{os.Stdout}, struct{ io.Reader }{c})) // no splice
	},
	// flood ADDR N: N times an echo and a failure in turn on one connection each
	"flood": func(args []string) {
		var n int
		must(fmt.Sscan(args[1], &n))
		done := make(chan bool)
		for range 4 {
			go func() {
				for range n / 4 {
					for _, path := range []string{"/echo", "/fail"} {
						method, body := "GET", io.Reader(nil)
						if path == "/echo" {
							method, body = "POST", strings.NewReader(strings.Repeat("e", 3000))
						}
						res := must(http.DefaultClient.Do(must(http.NewRequest(method, "http://"+args[0]+path, body))))
						must(io.Copy(io.Discard, res.Body))
						res.Body.Close()
					}
				}
				done <- true
			}()
		}
		for range 4 {
			<-done
		}
	},
	// keep ADDR: a connection that makes a request for each line of stdin
	"keep": func(args []string) {
		c := must(net.Dial("tcp", args[0]))
		r := bufio.NewReader(c)
		fmt.Println("connected")
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			must(fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", in.Text()))
			res := must(http.ReadResponse(r, nil))
			must(io.Copy(io.Discard, res.Body))
			fmt.Println("done")
		}
	},
}

func names(spans []got) map[string]int {
	m := map[string]int{}
	for _, s := range spans {
		m[s.Name]++
	}
	return m
}

// expect waits until both ends have n spans, and then that no more come.
func (a *agent) expect(t *testing.T, port, servers, clients int) (server, client []got) {
	t.Helper()
	wait(func() bool {
		server, client = a.port(port)
		return len(server) >= servers && len(client) >= clients
	})
	time.Sleep(3 * drainEvery)
	server, client = a.port(port)
	if len(server) != servers || len(client) != clients {
		_, drops := a.sum(t, "nodetap_apm_spans_dropped_total")
		_, ring := a.sum(t, "nodetap_apm_events_dropped_total")
		t.Errorf("%d server and %d client spans, want %d and %d; dropped %v, events dropped %v", len(server), len(client), servers, clients, drops, ring)
	}
	return server, client
}

func TestGoServerAndClientGiveOneSpanEach(t *testing.T) {
	port := free(t)
	a := start(t, nil)
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	run1(t, "go-client", base+"/ok", "50")
	run1(t, "go-client", base+"/users/{i}", "50")
	server, client := a.expect(t, port, 100, 100)
	for kind, spans := range map[string][]got{"server": server, "client": client} {
		n := names(spans)
		if n["GET /ok"] != 50 || n["GET /users/*"] != 50 {
			t.Errorf("%s spans: %v", kind, n)
		}
		for _, s := range spans {
			if s.attr("http.response.status_code") != int64(200) || s.End <= s.Start || s.attr("network.protocol.version") != "1.1" {
				t.Errorf("%s span %+v", kind, s)
				break
			}
		}
	}
}

func TestChunkedResponsesOfEverySize(t *testing.T) {
	port := free(t)
	a := start(t, nil)
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	run1(t, "go-client", fmt.Sprintf("http://127.0.0.1:%d/chunked", port), "20")
	a.expect(t, port, 20, 20)
}

func TestPipelinedAndSplitRequests(t *testing.T) {
	port := free(t)
	a := start(t, nil)
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	one := "GET /ok HTTP/1.1%0d%0aHost: x%0d%0a%0d%0a"
	last := "GET /ok HTTP/1.1%0d%0aHost: x%0d%0aConnection: close%0d%0a%0d%0a"
	// sixteen in one write
	run1(t, "raw", fmt.Sprintf("127.0.0.1:%d", port), strings.Repeat(one, 15)+last)
	a.expect(t, port, 16, 16)
	// one in a write for each byte
	args := []string{fmt.Sprintf("127.0.0.1:%d", port)}
	for b := []byte("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"); len(b) > 0; b = b[1:] {
		args = append(args, strings.NewReplacer("\r", "%0d", "\n", "%0a").Replace(string(b[:1])))
	}
	run1(t, "raw", args...)
	server, client := a.expect(t, port, 17, 17)
	for _, s := range append(server[16:], client[16:]...) {
		if s.Name != "POST /echo" || s.attr("http.request.body.size") != int64(5) || s.attr("http.response.body.size") != int64(5) {
			t.Errorf("span of the request in pieces: %s %v", s.Name, s.Attrs)
		}
	}
}

func TestConnectionsFromBeforeTheAgentAreSeen(t *testing.T) {
	port := free(t)
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$", fmt.Sprintf("127.0.0.1:%d", port))
	cmd.Env = append(os.Environ(), "APM_TEST_HELPER=keep")
	in, out := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	ask := func(n int) {
		for range n {
			fmt.Fprintln(in, "/ok")
			lines.Scan()
		}
	}
	lines.Scan() // connected
	ask(3)       // before
	a := start(t, nil)
	ask(5)
	a.expect(t, port, 5, 5)
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestTraceparentIsTaken(t *testing.T) {
	port := free(t)
	a := start(t, nil)
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	run1(t, "go-client", fmt.Sprintf("http://127.0.0.1:%d/fail", port), "1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	server, client := a.expect(t, port, 1, 1)
	for _, s := range append(server, client...) {
		if s.TraceID.String() != "0af7651916cd43dd8448eb211c80319c" || s.ParentID.String() != "b7ad6b7169203331" || s.Flags != 1 {
			t.Errorf("trace %s parent %s flags %d", s.TraceID, s.ParentID, s.Flags)
		}
		if s.Status == 0 || s.attr("error.type") != "503" {
			t.Errorf("status %d, error.type %v", s.Status, s.attr("error.type"))
		}
	}
}

const bodySize = 3 << 20 // long enough for the kernel to be told to skip it

func TestOtherLanguages(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file.txt"), bytes.Repeat([]byte("x"), bodySize), 0o644); err != nil {
		t.Fatal(err)
	}
	servers := map[string]func(t *testing.T, port int){
		"python3": func(t *testing.T, port int) {
			spawn(t, nil, "python3", "-m", "http.server", fmt.Sprint(port), "--bind", "127.0.0.1", "--directory", dir)
		},
		"node": func(t *testing.T, port int) {
			spawn(t, nil, "node", "-e", fmt.Sprintf(`require('http').createServer((q,r)=>{r.write('a'.repeat(100000));setTimeout(()=>r.end('end'),2)}).listen(%d,'127.0.0.1')`, port))
		},
		"nginx": func(t *testing.T, port int) {
			conf := filepath.Join(dir, "nginx.conf")
			text := fmt.Sprintf("daemon off;master_process off;pid %s/pid;error_log stderr;events{}http{access_log off;sendfile on;client_body_temp_path %s/b;proxy_temp_path %s/p;fastcgi_temp_path %s/f;uwsgi_temp_path %s/u;scgi_temp_path %s/s;server{listen 127.0.0.1:%d;root %s;}}", dir, dir, dir, dir, dir, dir, port, dir)
			if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			spawn(t, nil, "nginx", "-c", conf)
		},
	}
	for name, serve := range servers {
		t.Run(name, func(t *testing.T) {
			port := free(t)
			a := start(t, nil)
			serve(t, port)
			listening(t, port)
			url := fmt.Sprintf("http://127.0.0.1:%d/file.txt", port)
			run1(t, "go-client", url, "10")
			// two URLs in one curl: one connection
			cmd := exec.Command("curl", "-sS", "-o", "/dev/null", "-o", "/dev/null", url, url)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("curl: %v\n%s", err, out)
			}
			py := exec.Command("python3", "-c", fmt.Sprintf("import urllib.request\nfor i in range(5): urllib.request.urlopen(%q).read()", url))
			if out, err := py.CombinedOutput(); err != nil {
				t.Fatalf("python3: %v\n%s", err, out)
			}
			js := exec.Command("node", "-e", fmt.Sprintf(`(async()=>{for(let i=0;i<5;i++)await (await fetch(%q)).text()})()`, url))
			if out, err := js.CombinedOutput(); err != nil {
				t.Fatalf("node: %v\n%s", err, out)
			}
			server, client := a.expect(t, port, 22, 22)
			for _, s := range append(server, client...) {
				if s.attr("http.response.status_code") != int64(200) || s.attr("error.type") != nil {
					t.Errorf("%s %v", s.Name, s.Attrs)
				}
				if n := s.attr("http.response.body.size").(int64); name != "node" && n != bodySize {
					t.Errorf("kind %d: body of %d bytes", s.Kind, n)
				}
			}
		})
	}
}
