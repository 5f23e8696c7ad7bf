package main

// Network policy engine: turns the NetworkPolicy, Pod and Namespace objects into one nftables table of the
// cluster's network namespace, whole and at once, whenever they change. Traffic between pods of one bridge passes
// it because the warden sets bridge-nf-call-iptables there.

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/exec"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Long enough for the objects of one `apply` to come together, short beside the start of a pod.
const policyPause = 30 * time.Millisecond

func runPolicy(ctx context.Context, config *rest.Config, flags *flag.FlagSet, args []string) error {
	node := flags.String("node", "", "the node whose pods are guarded")
	_ = flags.Parse(args)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	policies, pods, namespaces := factory.Networking().V1().NetworkPolicies(), factory.Core().V1().Pods(), factory.Core().V1().Namespaces()
	changed := make(chan struct{}, 1)
	trigger := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { trigger() }, UpdateFunc: func(_, _ any) { trigger() }, DeleteFunc: func(any) { trigger() },
	}
	for _, informer := range []cache.SharedIndexInformer{policies.Informer(), pods.Informer(), namespaces.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	trigger()
	var applied string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(policyPause):
		}
		select { // what came during the pause is in what is read now
		case <-changed:
		default:
		}
		var w world
		w.node = *node
		if w.policies, err = policies.Lister().List(labels.Everything()); err != nil {
			return err
		}
		if w.pods, err = pods.Lister().List(labels.Everything()); err != nil {
			return err
		}
		if w.namespaces, err = namespaces.Lister().List(labels.Everything()); err != nil {
			return err
		}
		rules := w.rules()
		if rules == applied {
			continue
		}
		if err := applyRules(ctx, rules); err != nil {
			log.Printf("%v; trying again in a second", err)
			time.AfterFunc(time.Second, trigger)
			continue
		}
		applied = rules
		log.Printf("%d policies are in force", len(w.policies))
	}
}

func applyRules(ctx context.Context, rules string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, "nft", "-f", "-")
	command.Stdin = strings.NewReader(rules)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft refused the rules: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
