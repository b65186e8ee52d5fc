package apm

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"unsafe"
)

// The values of the kernel side's enums, bpf/apm.bpf.c.
const (
	evData   = 1
	evState  = 2
	evCgroup = 3

	dirRecv = 0
	dirSend = 1

	flagStart = 1 // the data begins as a message does
	flagNew   = 4 // the first event of the connection

	familyINET  = 2
	familyINET6 = 10

	tcpFinWait1 = 4
	tcpClose    = 7
	tcpLastAck  = 9
)

const headerSize = int(unsafe.Sizeof(bpfEvent{}))

var errShortEvent = errors.New("event shorter than it says")

// decode copies the header of a record into ev and returns the captured bytes,
// a view into b. Both come from our own program in the same byte order and
// layout; the sizes are checked all the same.
func decode(b []byte, ev *bpfEvent) ([]byte, error) {
	if len(b) < headerSize {
		return nil, errShortEvent
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(ev)), headerSize), b)
	data := b[headerSize:]
	if uint64(ev.Cap) > uint64(len(data)) || ev.Cap > ev.Len && ev.Type == evData || ev.Dir > 1 || int(ev.TailLen) > len(ev.Tail) {
		return nil, errShortEvent
	}
	return data[:ev.Cap:ev.Cap], nil
}

// encode is decode's inverse, for recorded streams and the event replayer.
func encode(ev *bpfEvent, data []byte) []byte {
	ev.Cap = uint32(len(data))
	b := make([]byte, 0, headerSize+len(data))
	b = append(b, unsafe.Slice((*byte)(unsafe.Pointer(ev)), headerSize)...)
	return append(b, data...)
}

func addrPort(family uint8, addr *[16]uint8, port uint16) netip.AddrPort {
	if family == familyINET6 {
		return netip.AddrPortFrom(netip.AddrFrom16(*addr).Unmap(), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr[:4])), port)
}

// endpointOf is the key of the kernel side's self_endpoints map.
func endpointOf(a netip.AddrPort, netns uint32) bpfEndpoint {
	e := bpfEndpoint{Port: a.Port(), Family: familyINET6}
	if a.Addr().Is4() {
		e.Family = familyINET
		v4 := a.Addr().As4()
		copy(e.Addr[:], v4[:])
	} else {
		e.Addr = a.Addr().As16()
	}
	if a.Addr().IsLoopback() {
		e.Netns = netns
	}
	return e
}

// seqDiff is a-b of TCP sequence numbers.
func seqDiff(a, b uint32) int32 { return int32(a - b) }

// chunkEnd tells whether the tail is that of a chunked body without trailers.
func chunkEnd(tail []byte) bool {
	const last = "0\r\n\r\n"
	n := len(tail)
	if n < len(last) || string(tail[n-len(last):]) != last {
		return false
	}
	return n < len(last)+2 || binary.BigEndian.Uint16(tail[n-7:]) == '\r'<<8|'\n'
}
