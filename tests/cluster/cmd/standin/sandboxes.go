package main

// sandboxd's control interface for sandboxes on simulated nodes, whose pods have addresses and no processes. One server
// listens on all of these addresses, which are routed to the cluster's network namespace, and reports an idle sandbox
// that is ready. It checks no token.

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
