package main

// The outer half: a free slot, the machine's end of the veth pair, the end of the cluster.

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long the kernel may take to end everything inside, and how long one command to the inner half may.
const (
	innerEnd   = 30 * time.Second
	commandEnd = 60 * time.Second
)

func runOuter(dir string) error {
	// The inner half is to die with this thread (Pdeathsig means the thread), so the thread must not end early.
	runtime.LockOSThread()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	ended := make(chan string, 2)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() { ended <- (<-signals).String() }()
	if owner := os.Getenv("FSA_TEST_OWNER"); owner != "" {
		if err := watchOwner(owner, ended); err != nil {
			return err
		}
	}

	goRead, goWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	slot, err := takeSlot(dir)
	if err != nil {
		return err
	}
	inner := exec.Command("/proc/self/exe", "inner", dir, strconv.Itoa(slot))
	inner.Stderr = os.Stderr
	inner.ExtraFiles = []*os.File{goRead, readyWrite}
	inner.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig: syscall.SIGKILL,
		Setsid:    true,
	}
	if err := inner.Start(); err != nil {
		_ = ip("link", "delete", machineLink(slot))
		return fmt.Errorf("the namespaces could not be created (this needs root): %w", err)
	}
	goRead.Close()
	readyWrite.Close()
	gone := make(chan error, 1)
	go func() { gone <- inner.Wait() }()

	fail := func(err error) error {
		_ = inner.Process.Kill()
		<-gone
		_ = ip("link", "delete", machineLink(slot)) // it may not have moved yet
		return errors.Join(err, removeCgroups(slot))
	}
	if err := connect(slot, inner.Process.Pid); err != nil {
		return fail(err)
	}
	goWrite.Close() // the inner half waits for the end of this pipe: the network is there
	line, err := bufio.NewReader(readyRead).ReadString('\n')
	if err != nil || line != "ready\n" {
		return fail(fmt.Errorf("the inner half did not become ready; its output is above (%q)", line))
	}
	for name, value := range map[string]int{"slot": slot, "init.pid": inner.Process.Pid, "warden.pid": os.Getpid()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strconv.Itoa(value)+"\n"), 0o644); err != nil {
			return fail(err)
		}
	}
	fmt.Println("ready")
	_ = os.Stdout.Close() // up.sh waits for this line and then for the end of the output

	var failed error
	select {
	case why := <-ended:
		fmt.Fprintln(os.Stderr, "warden: ending:", why)
		_ = inner.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone:
		case <-time.After(innerEnd):
			failed = fmt.Errorf("the inner half did not end in %v and was killed", innerEnd)
			_ = inner.Process.Kill()
			<-gone
		}
	case err := <-gone:
		failed = fmt.Errorf("the inner half ended by itself: %v", err)
	}
	// The kernel would do it too, yet some time after the last process of the network namespace.
	_ = ip("link", "delete", machineLink(slot))
	return errors.Join(failed, removeCgroups(slot))
}

// watchOwner ends the cluster when the process that requested it ends, however that ends.
func watchOwner(owner string, ended chan<- string) error {
	pid, err := strconv.Atoi(owner)
	if err != nil {
		return fmt.Errorf("FSA_TEST_OWNER must be a process id, and is %q", owner)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("there is no process %d to be the owner of this cluster: %w", pid, err)
	}
	go func() {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if n > 0 || (err != nil && err != unix.EINTR) {
				ended <- "the owner ended"
				return
			}
		}
	}()
	return nil
}

// takeSlot locks a slot by creating its network link: the kernel refuses a name that is taken. The search begins at a
// slot derived from the folder, so that a folder mostly gets the same addresses again.
func takeSlot(dir string) (int, error) {
	h := fnv.New32a()
	h.Write([]byte(dir))
	first := int(h.Sum32() % slots)
	for i := range slots {
		slot := (first + i) % slots
		err := ip("link", "add", machineLink(slot), "type", "veth", "peer", "name", machineLink(slot)+"n")
		if err == nil {
			return slot, nil
		}
		if !strings.Contains(err.Error(), "File exists") {
			return 0, err
		}
	}
	return 0, fmt.Errorf("all %d slots for clusters are taken: see `ip link`, and take some down", slots)
}

func connect(slot, pid int) error {
	link, a := machineLink(slot), addressesOf(slot)
	for _, args := range [][]string{
		{"link", "set", link + "n", "netns", strconv.Itoa(pid), "name", "node"},
		{"address", "add", a.machine + "/30", "dev", link},
		{"address", "add", a.outside + "/32", "dev", link},
		{"link", "set", link, "up"},
		{"route", "add", a.pods, "via", a.node, "dev", link},
		{"route", "add", a.services, "via", a.node, "dev", link},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %s (%w)", strings.Join(args, " "), strings.TrimSpace(string(out)), err)
	}
	return nil
}

// removeCgroups works deepest first, since a cgroup with children cannot be removed. A cgroup is busy for a moment after
// its last process has ended, and v1 has no notification of that.
func removeCgroups(slot int) error {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupName(slot))
	if own := "/sys/fs/cgroup/" + cgroupName(slot); isDir(own) {
		roots = append(roots, own)
	}
	var failed error
	for _, root := range roots {
		var err error
		for attempt := 0; attempt < 50; attempt++ {
			if err = removeTree(root); err == nil {
				break
			}
			time.Sleep(time.Duration(10+attempt) * time.Millisecond)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		if e := syscall.Rmdir(dirs[i]); e != nil && e != syscall.ENOENT {
			err = fmt.Errorf("the cgroup %s could not be removed: %w", dirs[i], e)
		}
	}
	return err
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
