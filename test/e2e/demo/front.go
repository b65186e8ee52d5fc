package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// call is one request that front made, as front saw it.
type call struct {
	Backend, Method, Path string
	Status                int
	Start, End            int64  // ns since 1970
	TraceID, ParentID     string // of the traceparent that was sent; "" for none
}

// plan is what one round asks of one service.
var plan = []struct{ method, path string }{
	{"GET", "/items/%d"}, {"GET", "/items/%d"}, {"POST", "/items"}, {"GET", "/stream"},
	{"GET", "/missing"}, {"GET", "/fail"}, {"GET", "/slow"}, {"GET", "/chain"},
}

// front answers /run?n=N by N rounds of requests to every service of $BACKENDS
// (name=host:port,...) and to the pod given as direct=host:port, one after the other over kept connections, every second
// one with a traceparent, and answers with the list of them.
func front() error {
	client := &http.Client{Timeout: 10 * time.Second}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /run", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var calls []call
		for round := range n {
			for _, b := range append(strings.Split(os.Getenv("BACKENDS"), ","), "direct="+r.URL.Query().Get("direct")) {
				name, addr, _ := strings.Cut(b, "=")
				for _, p := range plan {
					path := p.path
					if strings.Contains(path, "%d") {
						path = fmt.Sprintf(path, 1000+len(calls))
					}
					c, err := do(client, name, p.method, addr, path, len(calls)%2 == 1)
					if err != nil {
						http.Error(w, err.Error(), http.StatusBadGateway)
						return
					}
					calls = append(calls, c)
				}
			}
			fmt.Printf("round %d done\n", round+1)
		}
		json.NewEncoder(w).Encode(calls)
	})
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	return http.ListenAndServe(":8080", mux)
}

func do(client *http.Client, name, method, addr, path string, traced bool) (call, error) {
	c := call{Backend: name, Method: method, Path: path}
	var body io.Reader
	if method == "POST" {
		// no known length: sent in chunks
		body = io.MultiReader(strings.NewReader(`{"name":`), strings.NewReader(strings.Repeat("n", 3000)), strings.NewReader(`}`))
	}
	req, err := http.NewRequest(method, "http://"+addr+path, body)
	if err != nil {
		return c, err
	}
	if traced {
		var b [24]byte
		rand.Read(b[:])
		c.TraceID, c.ParentID = hex.EncodeToString(b[:16]), hex.EncodeToString(b[16:])
		req.Header.Set("traceparent", "00-"+c.TraceID+"-"+c.ParentID+"-01")
	}
	c.Start = time.Now().UnixNano()
	resp, err := client.Do(req)
	if err != nil {
		return c, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	c.End, c.Status = time.Now().UnixNano(), resp.StatusCode
	time.Sleep(10 * time.Millisecond) // so that the times of two requests are apart
	return c, err
}
