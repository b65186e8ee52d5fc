package apm

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nodetap/agent/component"
)

// ways are the system calls that move data, as a client or a server would use
// them.
var ways = []string{"write/read", "writev/readv", "sendto/recvfrom", "sendmsg/recvmsg"}

// vectorHelpers are programs that move data by every way.
var vectorHelpers = map[string]func(args []string){
	// vector-client ADDR: on one connection, a request by each way
	"vector-client": func(args []string) {
		fd := rawDial(args[0])
		for i := range ways {
			rawSend(fd, i, []byte(fmt.Sprintf("POST /way%c HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n", 'a'+i)), []byte("abcdef"))
			got := 0
			for got < responseSize {
				got += rawRecv(fd, i)
			}
		}
		unix.Close(fd)
	},
	// vector-server PORT: answers each way by the same, the last with sendfile
	"vector-server": func(args []string) {
		l := must(net.Listen("tcp", "127.0.0.1:"+args[0]))
		body := must(os.CreateTemp("", "body"))
		must(body.Write(bytes.Repeat([]byte("f"), responseSize-len(responseHead()))))
		os.Remove(body.Name())
		for {
			c := must(l.Accept()).(*net.TCPConn)
			fd := int(must(c.File()).Fd())
			must(0, unix.SetNonblock(fd, false))
			for i := range ways {
				got := 0
				for got < requestSize {
					n := rawRecv(fd, i)
					if n == 0 {
						break
					}
					got += n
				}
				if got == 0 {
					break
				}
				if i < len(ways)-1 {
					rawSend(fd, i, responseHead(), bytes.Repeat([]byte("v"), responseSize-len(responseHead())))
					continue
				}
				rawSend(fd, i, responseHead(), nil)
				var off int64
				for off < int64(responseSize-len(responseHead())) {
					must(unix.Sendfile(fd, int(body.Fd()), &off, responseSize))
				}
			}
			c.Close()
			unix.Close(fd)
		}
	},
}

const (
	requestSize  = len("POST /waya HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabcdef")
	responseSize = 20000
)

func responseHead() []byte {
	h := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %5d\r\n\r\n", 0)
	return []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %5d\r\n\r\n", responseSize-len(h)))
}

func rawDial(addr string) int {
	c := must(net.Dial("tcp", addr)).(*net.TCPConn)
	f := must(c.File())
	fd := must(unix.Dup(int(f.Fd())))
	f.Close()
	c.Close()
	must(0, unix.SetNonblock(fd, false))
	return fd
}

// rawSend sends head and body: one after the other, or as two or three vectors.
func rawSend(fd, way int, head, body []byte) {
	vec := [][]byte{head[:5], head[5:]}
	if len(body) > 0 {
		vec = append(vec, body)
	}
	switch ways[way] {
	case "write/read":
		must(unix.Write(fd, head))
		if len(body) > 0 {
			must(unix.Write(fd, body))
		}
	case "writev/readv":
		must(unix.Writev(fd, vec))
	case "sendto/recvfrom":
		must(0, unix.Send(fd, append(append([]byte(nil), head...), body...), 0))
	case "sendmsg/recvmsg":
		must(unix.SendmsgBuffers(fd, vec, nil, nil, 0))
	}
}

func rawRecv(fd, way int) int {
	a, b := make([]byte, 7), make([]byte, 8000)
	switch ways[way] {
	case "writev/readv":
		return must(unix.Readv(fd, [][]byte{a, b}))
	case "sendto/recvfrom":
		// looked at first, which must not count
		_, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK)
		must(0, err)
		n, _, err := unix.Recvfrom(fd, b, 0)
		return must(n, err)
	case "sendmsg/recvmsg":
		n, _, _, _, err := unix.RecvmsgBuffers(fd, [][]byte{a, b}, nil, 0)
		return must(n, err)
	}
	return must(unix.Read(fd, b))
}

func TestEveryWayToSendAndReceive(t *testing.T) {
	port := free(t)
	a := start(t, nil)
	helper(t, "vector-server", fmt.Sprint(port))
	listening(t, port)
	run1(t, "vector-client", fmt.Sprintf("127.0.0.1:%d", port))
	server, client := a.expect(t, port, len(ways), len(ways))
	for _, s := range append(server, client...) {
		if s.attr("http.response.status_code") != int64(200) || s.attr("http.request.body.size") != int64(6) ||
			s.attr("http.response.body.size") != int64(responseSize-len(responseHead())) || !strings.HasPrefix(s.Name, "POST /way") || s.attr("error.type") != nil {
			t.Errorf("%v %s %v", s.Kind, s.Name, s.Attrs)
		}
	}
}

func TestTheProbeTellsWhatTheKernelAllows(t *testing.T) {
	needBPF(t)
	err := Probe(testHost)
	if lockdown(testHost.Sys) != "confidentiality" {
		if err != nil {
			t.Errorf("probe: %v", err)
		}
		return
	}
	var u *component.Unsupported
	if !errors.As(err, &u) || !strings.Contains(u.Missing, "lockdown=confidentiality") || u.Grant == "" {
		t.Errorf("probe of a locked kernel: %v", err)
	}
}
