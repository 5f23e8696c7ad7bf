package main

// Private mounts and network, which the inner half prepares before anything else runs.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// kubelet sets these for the whole machine unless they have these values already, so files with these values cover them.
var kubeletSysctls = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// Programs of a cluster write to places below these that no option moves.
var overlaid = []string{"/etc", "/var", "/run"}

func prepareMounts(dir string) error {
	// By a descriptor, since an overlay may cover the path.
	self, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer self.Close()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts could not be made private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc could not be mounted: %w", err)
	}
	if err := syscall.Mount("shm", "/dev/shm", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=256m"); err != nil {
		return fmt.Errorf("/dev/shm could not be mounted: %w", err)
	}
	for _, path := range overlaid {
		upper := filepath.Join(dir, "overlay", path, "upper")
		work := filepath.Join(dir, "overlay", path, "work")
		for _, made := range []string{upper, work} {
			if err := os.MkdirAll(made, 0o755); err != nil {
				return err
			}
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", path, upper, work)
		if err := syscall.Mount("overlay", path, "overlay", 0, options); err != nil {
			return fmt.Errorf("%s could not be overlaid (is %s on a file system that can carry an overlay?): %w", path, dir, err)
		}
		if strings.HasPrefix(dir, path+"/") {
			if err := syscall.Mount(fmt.Sprintf("/proc/self/fd/%d", self.Fd()), dir, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
				return fmt.Errorf("%s could not be bound again: %w", dir, err)
			}
		}
	}
	sysctls := filepath.Join(dir, "sysctl")
	if err := os.MkdirAll(sysctls, 0o755); err != nil {
		return err
	}
	for name, value := range kubeletSysctls {
		file := filepath.Join(sysctls, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(file, "/proc/sys/"+name, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s could not be covered: %w", name, err)
		}
	}
	return nil
}

func prepareNetwork(slot int) error {
	a := addressesOf(slot)
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		// The metadata address of clouds, which serves the machine's secrets. A test may listen here; pods must not reach it.
		{"address", "add", "169.254.169.254/32", "dev", "lo"},
		{"address", "add", a.node + "/30", "dev", "node"},
		{"link", "set", "node", "up"},
		{"route", "add", "default", "via", a.machine},
		{"link", "add", "cni0", "type", "bridge"},
		{"address", "add", a.bridge + "/24", "dev", "cni0"},
		{"link", "set", "cni0", "up"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	// Of this network namespace alone. The second makes traffic between pods of one bridge pass the rules for
	// services and policies as if it were routed.
	for _, name := range []string{"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"} {
		if err := os.WriteFile("/proc/sys/"+name, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("%s could not be set (for the second the kernel needs br_netfilter): %w", name, err)
		}
	}
	return nil
}
