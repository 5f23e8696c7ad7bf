package main

// The inner half: the first process of the cluster's pid namespace. It prepares mounts and network, starts and stops
// parts on command, and reaps orphaned processes.

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const partEnd = 10 * time.Second

// A part is a script DIR/parts/NAME that ends in exec of its program, in a separate process group.
type part struct {
	pid   int
	since time.Time
	ended chan struct{}
}

type warden struct {
	dir     string
	lock    sync.Mutex // also held from fork to entry in the table, so that no exit is reaped before its entry exists
	running map[string]*part
	order   []string
}

func runInner(dir, slotText string) error {
	slot, err := strconv.Atoi(slotText)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGCHLD)
	if _, err := io.ReadAll(os.NewFile(3, "go")); err != nil {
		return err
	}
	if err := prepareMounts(dir); err != nil {
		return err
	}
	if err := prepareNetwork(slot); err != nil {
		return err
	}
	socket := filepath.Join(dir, "warden.sock")
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	w := &warden{dir: dir, running: map[string]*part{}}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go w.serve(connection)
		}
	}()
	ready := os.NewFile(4, "ready")
	fmt.Fprintln(ready, "ready")
	ready.Close()
	// All state is thrown away at the end, so the parts need not end in order: the kernel ends them with us.
	for s := range signals {
		if s == syscall.SIGTERM {
			os.Exit(0)
		}
		w.reap()
	}
	return nil
}

func (w *warden) reap() {
	w.lock.Lock()
	defer w.lock.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if pid <= 0 || err != nil {
			return
		}
		for name, p := range w.running {
			if p.pid == pid {
				fmt.Fprintf(os.Stderr, "warden: %s ended (%s)\n", name, describe(status))
				close(p.ended)
				delete(w.running, name)
			}
		}
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}

func (w *warden) start(name string) (int, error) {
	w.lock.Lock()
	defer w.lock.Unlock()
	if p := w.running[name]; p != nil {
		return p.pid, nil
	}
	script := filepath.Join(w.dir, "parts", name)
	log, err := os.OpenFile(filepath.Join(w.dir, "logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	defer null.Close()
	// Not os/exec: its Wait and our reaping would race for the same end.
	pid, err := syscall.ForkExec(script, []string{script}, &syscall.ProcAttr{
		Dir: w.dir, Env: os.Environ(), Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("%s could not be started: %w", script, err)
	}
	w.running[name] = &part{pid: pid, since: time.Now(), ended: make(chan struct{})}
	w.order = append(slices.DeleteFunc(w.order, func(n string) bool { return n == name }), name)
	return pid, nil
}

// stop signals the main process alone first, so that it may end its children in order; then the whole group.
func (w *warden) stop(name string, first syscall.Signal) error {
	w.lock.Lock()
	p := w.running[name]
	if p != nil {
		_ = syscall.Kill(p.pid, first)
	}
	w.lock.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(partEnd):
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	select {
	case <-p.ended:
		return nil
	case <-time.After(partEnd):
		return fmt.Errorf("%s (process %d inside) does not end", name, p.pid)
	}
}

func (w *warden) serve(connection net.Conn) {
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(commandEnd))
	line, err := bufio.NewReader(io.LimitReader(connection, 4096)).ReadString('\n')
	if err != nil {
		return
	}
	words := strings.Fields(line)
	output, err := w.execute(words)
	if err != nil {
		fmt.Fprintf(connection, "error %v\n", err)
		return
	}
	fmt.Fprintf(connection, "ok\n%s", output)
}

// execute runs one command and returns its output.
func (w *warden) execute(words []string) (string, error) {
	if len(words) == 2 && words[1] == filepath.Base(words[1]) {
		switch words[0] {
		case "start":
			pid, err := w.start(words[1])
			return fmt.Sprintf("%d\n", pid), err
		case "stop":
			return "", w.stop(words[1], syscall.SIGTERM)
		case "kill":
			return "", w.stop(words[1], syscall.SIGKILL)
		}
	}
	if len(words) == 1 && words[0] == "status" {
		w.lock.Lock()
		defer w.lock.Unlock()
		var output strings.Builder
		for _, name := range w.order {
			if p := w.running[name]; p != nil {
				fmt.Fprintf(&output, "%s running %d %s\n", name, p.pid, time.Since(p.since).Round(time.Second))
			} else {
				fmt.Fprintf(&output, "%s ended\n", name)
			}
		}
		return output.String(), nil
	}
	return "", fmt.Errorf("not a command: %s", strings.Join(words, " "))
}

// control sends one command to the inner half and prints its output.
func control(dir string, words []string) error {
	connection, err := net.DialTimeout("unix", filepath.Join(dir, "warden.sock"), 5*time.Second)
	if err != nil {
		return fmt.Errorf("no cluster runs in %s: %w", dir, err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(commandEnd))
	fmt.Fprintln(connection, strings.Join(words, " "))
	reply, err := io.ReadAll(io.LimitReader(connection, 1<<20))
	if err != nil {
		return err
	}
	first, rest, _ := strings.Cut(string(reply), "\n")
	if first != "ok" {
		return fmt.Errorf("%s", strings.TrimPrefix(first, "error "))
	}
	fmt.Print(rest)
	return nil
}
