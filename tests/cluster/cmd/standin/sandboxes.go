package main

// What answers for the sandboxes on simulated nodes, whose pods have addresses and no processes: on every such
// address, which the cluster's network namespace takes as its own, one server says what sandboxd says of a sandbox
// that is ready and in which nothing happens. It looks at no token.

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"time"

	"k8s.io/client-go/rest"
)

const quietStatus = `{"version":"0","ready":true,"ports":[],"startCommand":{"state":"none"},"repository":{"state":"none"}}` + "\n"

func runSandboxes(ctx context.Context, _ *rest.Config, flags *flag.FlagSet, args []string) error {
	listen := flags.String("listen", ":7680", "the address of sandboxd's control interface")
	_ = flags.Parse(args)
	for _, pods := range flags.Args() {
		route := exec.CommandContext(ctx, "ip", "route", "replace", "local", pods, "dev", "lo")
		route.Stderr = os.Stderr
		if err := route.Run(); err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, quietStatus)
	})
	mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, quietStatus)
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		<-r.Context().Done() // nothing ever changes
	})
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { <-ctx.Done(); _ = server.Close() }()
	log.Printf("answering for the sandboxes in %v", flags.Args())
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
