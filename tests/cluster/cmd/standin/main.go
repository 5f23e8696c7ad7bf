// Stand-ins for parts of a cluster that are not available to tests: a volume provisioner, a network policy engine, a
// database operator, and sandboxd's control interface on simulated nodes. Each follows the published rules of the
// original, and README.md says what it leaves out.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var kinds = map[string]func(context.Context, *rest.Config, *flag.FlagSet, []string) error{
	"provisioner": runProvisioner,
	"policy":      runPolicy,
	"kubeblocks":  runKubeblocks,
	"sandboxes":   runSandboxes,
}

func main() {
	if len(os.Args) < 3 || kinds[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: standin provisioner|policy|kubeblocks|sandboxes KUBECONFIG …")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[2])
	if err == nil {
		config.QPS, config.Burst = 200, 400
		err = kinds[os.Args[1]](ctx, config, flag.NewFlagSet(os.Args[1], flag.ExitOnError), os.Args[3:])
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "standin %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
