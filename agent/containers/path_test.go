package containers

import (
	"bufio"
	"os"
	"strings"
	"testing"
)

const (
	idA  = "855f96e9819bf377f11864ae35bce03194959e97b5c4f25fe76eb7615111ed7d"
	idB  = "f9d132bfbee5493b596e1e3bbb6f24df9bdd852126bb9c3c96fdb131cda92f3d"
	uidA = "f8086fb9-0486-4311-89c8-80b238f007ad"
	uidU = "f8086fb9_0486_4311_89c8_80b238f007ad"
	hash = "0123456789abcdef0123456789abcdef"
)

func TestIdentify(t *testing.T) {
	for name, c := range map[string]struct {
		path string
		want identity
	}{
		"cgroupfs, burstable":      {"/kubepods/burstable/pod" + uidA + "/" + idA, identity{KindContainer, idA, uidA, "", false}},
		"cgroupfs, guaranteed":     {"/kubepods/pod" + uidA + "/" + idA, identity{KindContainer, idA, uidA, "", false}},
		"cgroupfs, pod":            {"/kubepods/besteffort/pod" + uidA, identity{KindPod, "", uidA, "", false}},
		"cgroupfs, static pod":     {"/kubepods/burstable/pod" + hash + "/" + idA, identity{KindContainer, idA, hash, "", false}},
		"systemd, containerd":      {"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidU + ".slice/cri-containerd-" + idA + ".scope", identity{KindContainer, idA, uidA, "containerd", false}},
		"systemd, cri-o":           {"/kubepods.slice/kubepods-pod" + uidU + ".slice/crio-" + idA + ".scope", identity{KindContainer, idA, uidA, "cri-o", false}},
		"systemd, cri-o conmon":    {"/kubepods.slice/kubepods-pod" + uidU + ".slice/crio-conmon-" + idA + ".scope", identity{}},
		"cgroupfs, cri-o":          {"/kubepods/burstable/pod" + uidA + "/crio-" + idA, identity{KindContainer, idA, uidA, "cri-o", false}},
		"systemd, docker":          {"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + uidU + ".slice/docker-" + idA + ".scope", identity{KindContainer, idA, uidA, "docker", false}},
		"systemd, pod":             {"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + uidU + ".slice", identity{KindPod, "", uidA, "", false}},
		"systemd, static pod":      {"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + hash + ".slice", identity{KindPod, "", hash, "", false}},
		"drivers mixed up":         {"/system.slice/containerd.service/kubepods-burstable-pod" + uidU + ".slice:cri-containerd:" + idA, identity{KindContainer, idA, uidA, "containerd", false}},
		"drivers mixed up, docker": {"/docker/" + idB + "/system.slice:docker:" + idA, identity{KindContainer, idA, "", "docker", false}},
		"kind":                     {"/docker/" + idB + "/kubelet/kubepods/burstable/pod" + uidA + "/" + idA, identity{KindContainer, idA, uidA, "", false}},
		"kind, systemd":            {"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + uidU + ".slice/cri-containerd-" + idA + ".scope", identity{KindContainer, idA, uidA, "containerd", false}},
		"kind under docker":        {"/system.slice/docker-" + idB + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + uidU + ".slice", identity{KindPod, "", uidA, "", false}},
		"docker in a pod":          {"/kubepods/pod" + uidA + "/" + idB + "/docker/" + idA, identity{KindContainer, idA, uidA, "docker", true}},
		"docker, cgroupfs":         {"/docker/" + idA, identity{KindContainer, idA, "", "docker", false}},
		"docker, systemd":          {"/system.slice/docker-" + idA + ".scope", identity{KindContainer, idA, "", "docker", false}},
		"podman":                   {"/machine.slice/libpod-" + idA + ".scope", identity{KindContainer, idA, "", "podman", false}},
		"podman, rootless":         {"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + idA + ".scope", identity{KindContainer, idA, "", "podman", false}},
		"podman, its payload":      {"/machine.slice/libpod-" + idA + ".scope/container", identity{}},
		"podman conmon":            {"/machine.slice/libpod-conmon-" + idA + ".scope", identity{}},
		"nerdctl":                  {"/system.slice/nerdctl-" + idA + ".scope", identity{KindContainer, idA, "", "containerd", false}},
		"bare hex is not docker's": {"/something/" + idA, identity{KindContainer, idA, "", "", false}},
		"nested in a container":    {"/kubepods/pod" + uidA + "/" + idA + "/init.scope", identity{}},
		"overlay mount unit":       {"/system.slice/var-lib-docker-overlay2-" + idA + "-merged.mount", identity{}},
		"service":                  {"/system.slice/containerd.service", identity{}},
		"talos":                    {"/podruntime/runtime", identity{}},
		"qos":                      {"/kubepods/burstable", identity{}},
		"root":                     {"/", identity{}},
		"empty":                    {"", identity{}},
		"upper case is no id":      {"/docker/" + strings.ToUpper(idA), identity{}},
		"longer hex is no id":      {"/docker/a" + idA, identity{}},
		"uid with bad separators":  {"/kubepods/podf8086fb9x0486-4311-89c8-80b238f007ad", identity{}},
		"too long":                 {"/" + strings.Repeat("a/", maxPath) + idA, identity{}},
	} {
		if got := identify(c.path); got != c.want {
			t.Errorf("%s: %s\n got %+v\nwant %+v", name, c.path, got, c.want)
		}
	}
}

// Every directory of a real node is told right: the depth below /kubepods says
// what it is.
func TestIdentifyARealTree(t *testing.T) {
	f, err := os.Open("testdata/cgroup-tree.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	count := map[Kind]int{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		_, path, _ := strings.Cut(sc.Text(), "/")
		got := identify("/" + path)
		parts := strings.Split(path, "/")
		var want identity
		for _, p := range parts {
			if uid, ok := strings.CutPrefix(p, "pod"); ok {
				want.kind, want.podUID = KindPod, uid
			}
			if len(p) == idLen {
				want.kind, want.id = KindContainer, p
			}
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", path, got, want)
		}
		count[got.kind]++
	}
	if count[KindContainer] != 32 || count[KindPod] != 16 {
		t.Errorf("found %v", count)
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add("/kubepods/burstable/pod" + uidA + "/" + idA)
	f.Add("/kubepods.slice/kubepods-pod" + uidU + ".slice/cri-containerd-" + idA + ".scope")
	f.Add("a-pod" + uidU + ".slice:cri-containerd:" + idA)
	f.Add("//pod:::/-" + idA)
	f.Fuzz(func(t *testing.T, path string) {
		got := identify(path)
		switch got.kind {
		case KindContainer:
			if len(got.id) != idLen || !isHex(got.id) {
				t.Errorf("id %q", got.id)
			}
		case KindPod:
			if got.id != "" || got.podUID == "" {
				t.Errorf("pod %+v", got)
			}
		case 0:
			if got != (identity{}) {
				t.Errorf("nothing, but %+v", got)
			}
		}
		if n := len(got.podUID); n != 0 && n != 32 && n != 36 {
			t.Errorf("pod uid %q", got.podUID)
		}
	})
}
