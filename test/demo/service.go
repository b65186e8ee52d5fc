package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"time"
)

// Loopback addresses of the three, as pods have addresses of their own.
const (
	addrFront  = "127.0.10.1:18080"
	addrOrders = "127.0.10.2:18080"
	addrStock  = "127.0.10.3:18080"
)

var addrs = map[string]string{"front": addrFront, "orders": addrOrders, "stock": addrStock}

// service is one of the three: it answers, asks the next one, and logs.
func service(args []string) {
	name, next := args[0], ""
	if len(args) > 1 {
		next = args[1]
	}
	// The parent writes one byte when it has put us into our cgroup.
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		os.Exit(1)
	}
	http.HandleFunc("GET /order/{id}", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		burn(time.Millisecond)
		if next == "" {
			if rand.N(20) == 0 {
				fmt.Printf("level=error msg=\"out of stock\" order=%s\n", id)
				http.Error(w, "out of stock", http.StatusServiceUnavailable)
				return
			}
			fmt.Printf("level=info msg=reserved order=%s\n", id)
			fmt.Fprintln(w, "reserved")
			return
		}
		code, body, err := get(r.Context(), next+"/order/"+id)
		if err != nil {
			fmt.Fprintf(os.Stderr, "level=error msg=%q order=%s\n", err, id)
			http.Error(w, "upstream", http.StatusBadGateway)
			return
		}
		fmt.Printf(`{"level":"info","msg":"order handled","service":%q,"order":%q,"status":%d}`+"\n", name, id, code)
		w.WriteHeader(code)
		io.WriteString(w, body) //nolint:errcheck // the client is gone
	})
	fmt.Printf("level=info msg=\"%s listens on %s\"\n", name, addrs[name])
	if err := http.ListenAndServe(addrs[name], nil); err != nil {
		fmt.Fprintf(os.Stderr, "level=fatal msg=%q\n", err)
		os.Exit(1)
	}
}

func get(ctx context.Context, url string) (code int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return resp.StatusCode, string(b), err
}

func burn(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

// visit is the shop's customer: an order twice a second until ctx ends.
func visit(ctx context.Context) {
	go func() {
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for id := 1000; ; id++ {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				get(ctx, fmt.Sprintf("http://%s/order/%d", addrFront, id)) //nolint:errcheck // the next one comes
			}
		}
	}()
}
