// The warden of one test cluster: it owns the namespaces that the cluster lives in, and every process in them.
//
//	warden run DIR               holds the cluster until SIGTERM, or until the process FSA_TEST_OWNER ends
//	warden control DIR COMMAND   start NAME, stop NAME, kill NAME or status
//
// The outer half stays in the machine's namespaces, makes the veth pair and removes the cgroups at the end. The
// inner half is the first process of a pid namespace: when it ends, the kernel ends everything in there, with
// the mounts, the network namespace and so the veth pair. Nothing is left behind.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "warden:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "run":
		return runOuter(args[1])
	case len(args) == 3 && args[0] == "inner":
		return runInner(args[1], args[2])
	case len(args) >= 3 && args[0] == "control":
		return control(args[1], args[2:])
	}
	return fmt.Errorf("usage: warden run DIR | warden control DIR start|stop|kill NAME | warden control DIR status")
}
