package forward

import "sync"

// fate is what is remembered of a chunk whose call failed.
type fate struct {
	acked   bool   // the receiver has it: the repeated call leaves it out
	suspect bool   // it was in flight when the connection went: send it alone
	resets  int    // connections lost, and acks that did not come, while it was alone
	acksAt  uint64 // acks of the exporter when it became suspect
}

// fates remembers chunks between the attempts of a call. It holds at most
// 2*maxFates and forgets the oldest: a chunk that is forgotten is sent once
// more, nothing worse.
type fates struct {
	mu       sync.Mutex
	now, old map[chunkKey]fate
}

const maxFates = 1024

func (f *fates) get(k chunkKey) fate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(k)
}

func (f *fates) find(k chunkKey) fate {
	v, ok := f.now[k]
	if !ok {
		v = f.old[k]
	}
	return v
}

// update changes the fate of k and returns it.
func (f *fates) update(k chunkKey, change func(*fate)) fate {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.find(k)
	change(&v)
	if len(f.now) >= maxFates || f.now == nil {
		f.old, f.now = f.now, make(map[chunkKey]fate)
	}
	f.now[k] = v
	return v
}

// forget drops what is known of k.
func (f *fates) forget(k chunkKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.now, k)
	delete(f.old, k)
}
