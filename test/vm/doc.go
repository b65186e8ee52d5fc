// Package vm runs nodetap's kernel-facing code on kernels that the building
// machine does not run: Debian's, in QEMU guests, by emulation, so that no
// hardware support and no privilege on the host is needed.
//
// `go test -tags vm ./test/vm/` fetches the kernels, cross-compiles the test
// binaries and the agent, packs each guest's root file system in memory, boots
// the guests and reports every test of every binary on every kernel as a
// subtest. A test that is skipped in a guest fails here too, unless the kernel's
// entry names it with the reason: a matrix that skips proves nothing.
//
// It does not install kernels on the host, keeps none of its own processes
// alive after the test, and offers the guests no network but their loopback.
// README.md says what runs where.
package vm
