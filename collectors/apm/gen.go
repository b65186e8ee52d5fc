package apm

// Regenerating needs clang-16 and llvm-strip-16 of Debian 12 (16.0.6); see
// bpf/README.md. CI does it and compares.
//
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -cflags "-O2 -g -Wall -Werror -I../../bpf/include" -target amd64,arm64 -type event -type conn -type endpoint bpf ../../bpf/apm.bpf.c
