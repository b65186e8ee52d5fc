package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// serve is the service that the other languages have too.
func serve() error {
	mux := http.NewServeMux()
	text := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(code)
			io.WriteString(w, body)
			fmt.Printf("served %s %s %d\n", r.Method, r.URL.Path, code)
		}
	}
	mux.HandleFunc("GET /items/{id}", text(200, `{"item":"a thing"}`))
	mux.HandleFunc("POST /items", text(201, `{"made":true}`))
	mux.HandleFunc("GET /missing", text(404, "no such thing"))
	mux.HandleFunc("GET /fail", text(500, "broken"))
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, _ *http.Request) {
		for range 5 { // a response of chunks, each in a write of its own
			io.WriteString(w, strings.Repeat("chunk ", 20))
			w.(http.Flusher).Flush()
			time.Sleep(2 * time.Millisecond)
		}
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond)
		io.WriteString(w, "at last")
	})
	mux.HandleFunc("GET /chain", func(w http.ResponseWriter, _ *http.Request) {
		r, err := http.Get("http://" + os.Getenv("NEXT") + "/items/7")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		io.Copy(w, r.Body)
		r.Body.Close()
	})
	return http.ListenAndServe(":8080", mux)
}
