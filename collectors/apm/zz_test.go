package apm

import ("testing";"errors";"github.com/cilium/ebpf")

func TestLoad(t *testing.T) {
	spec, err := loadBpf()
	if err != nil { t.Fatal(err) }
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) { n:=len(ve.Log); if n>60 {n=60}; for _, l := range ve.Log[len(ve.Log)-n:] { t.Log(l) } }
		t.Fatal(err) }
	for n, p := range c.Programs { t.Log(n, p.VerifierLog) 
	}
	r, err := c.Programs["whoami"].Run(&ebpf.RunOptions{})
	t.Log(r, err)
}
