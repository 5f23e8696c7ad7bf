package main

// NetworkPolicy v1 as nftables rules, without side effects, by the API's documentation.

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type world struct {
	node       string
	policies   []*networking.NetworkPolicy
	pods       []*core.Pod
	namespaces []*core.Namespace
}

// rules is a script for nft that replaces the table as one transaction. Verdicts: `return` allows and goes on (the
// other end's policies still apply), the end of a pod's chain drops.
func (w *world) rules() string {
	var chains strings.Builder
	var in, out []string
	for _, pod := range w.sortedPods() {
		if pod.Spec.NodeName != w.node {
			continue
		}
		for _, direction := range []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress} {
			rules, isolated := w.podRules(pod, direction)
			if !isolated {
				continue
			}
			name := strings.ToLower(string(direction)) + "_" + strings.ReplaceAll(pod.Status.PodIP, ".", "_")
			entry := fmt.Sprintf("%s : jump %s", pod.Status.PodIP, name)
			if direction == networking.PolicyTypeIngress {
				in = append(in, entry)
			} else {
				out = append(out, entry)
			}
			fmt.Fprintf(&chains, "\tchain %s {\n", name)
			// A pod reaches itself always, through a service too.
			fmt.Fprintf(&chains, "\t\tip saddr %s ip daddr %s return\n", pod.Status.PodIP, pod.Status.PodIP)
			for _, rule := range rules {
				fmt.Fprintf(&chains, "\t\t%s\n", rule)
			}
			chains.WriteString("\t\tcounter drop\n\t}\n")
		}
	}
	// Destinations are what services were turned into, since this comes after kube-proxy. Between the node and its
	// own pods ingress is always allowed (probes), so nothing watches what the node sends.
	forward, input := verdicts("ip saddr", out)+verdicts("ip daddr", in), verdicts("ip saddr", out)
	return "table ip fsa_policy\ndelete table ip fsa_policy\ntable ip fsa_policy {\n" + chains.String() +
		"\tchain forward {\n\t\ttype filter hook forward priority 10; policy accept;\n\t\tct state established,related accept\n" + forward + "\t}\n" +
		"\tchain input {\n\t\ttype filter hook input priority 10; policy accept;\n\t\tct state established,related accept\n" + input + "\t}\n}\n"
}

func verdicts(match string, entries []string) string {
	if len(entries) == 0 {
		return ""
	}
	return fmt.Sprintf("\t\t%s vmap { %s }\n", match, strings.Join(entries, ", "))
}

// Pods with their own address (not the node's), sorted by address, so that equal objects give equal rules.
func (w *world) sortedPods() []*core.Pod {
	var pods []*core.Pod
	for _, pod := range w.pods {
		finished := pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed
		if pod.Status.PodIP != "" && !pod.Spec.HostNetwork && !finished {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, func(a, b *core.Pod) int {
		return strings.Compare(a.Status.PodIP+string(a.UID), b.Status.PodIP+string(b.UID))
	})
	return slices.CompactFunc(pods, func(a, b *core.Pod) bool { return a.Status.PodIP == b.Status.PodIP })
}

func (w *world) podRules(pod *core.Pod, direction networking.PolicyType) (rules []string, isolated bool) {
	for _, policy := range w.sortedPolicies() {
		if policy.Namespace != pod.Namespace || !selects(&policy.Spec.PodSelector, pod.Labels) ||
			!slices.Contains(policy.Spec.PolicyTypes, direction) {
			continue
		}
		isolated = true
		if direction == networking.PolicyTypeIngress {
			for _, rule := range policy.Spec.Ingress {
				rules = append(rules, w.allow(policy.Namespace, "saddr", rule.From, rule.Ports, pod)...)
			}
		} else {
			for _, rule := range policy.Spec.Egress {
				rules = append(rules, w.allow(policy.Namespace, "daddr", rule.To, rule.Ports, nil)...)
			}
		}
	}
	return rules, isolated
}

func (w *world) sortedPolicies() []*networking.NetworkPolicy {
	policies := slices.Clone(w.policies)
	slices.SortFunc(policies, func(a, b *networking.NetworkPolicy) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return policies
}

// allow renders one rule of a policy. target is the pod that named ports belong to; nil means each peer's own.
func (w *world) allow(namespace, side string, peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort, target *core.Pod) []string {
	var lines []string
	emit := func(match string, of *core.Pod) {
		for _, port := range portMatches(ports, of) {
			lines = append(lines, strings.Join(strings.Fields(match+" "+port+" return"), " "))
		}
	}
	if len(peers) == 0 {
		emit("", target)
	}
	named := slices.ContainsFunc(ports, func(p networking.NetworkPolicyPort) bool { return p.Port != nil && p.Port.Type == intstr.String })
	for _, peer := range peers {
		if block := peer.IPBlock; block != nil {
			if strings.Contains(block.CIDR, ":") {
				continue // the cluster speaks IPv4 alone
			}
			match := fmt.Sprintf("ip %s %s", side, block.CIDR)
			if len(block.Except) > 0 {
				match += fmt.Sprintf(" ip %s != { %s }", side, strings.Join(block.Except, ", "))
			}
			emit(match, target)
			continue
		}
		selected := w.selectedBy(namespace, peer)
		if target == nil && named {
			for _, pod := range selected {
				emit(fmt.Sprintf("ip %s %s", side, pod.Status.PodIP), pod)
			}
		} else if len(selected) > 0 {
			addresses := make([]string, len(selected))
			for i, pod := range selected {
				addresses[i] = pod.Status.PodIP
			}
			emit(fmt.Sprintf("ip %s { %s }", side, strings.Join(addresses, ", ")), target)
		}
	}
	return lines
}

func (w *world) selectedBy(namespace string, peer networking.NetworkPolicyPeer) []*core.Pod {
	names := map[string]bool{}
	if peer.NamespaceSelector == nil {
		names[namespace] = true
	} else {
		for _, n := range w.namespaces {
			names[n.Name] = selects(peer.NamespaceSelector, n.Labels)
		}
	}
	var pods []*core.Pod
	for _, pod := range w.sortedPods() {
		if names[pod.Namespace] && (peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// No port means every port; a named port that the pod does not have means none.
func portMatches(ports []networking.NetworkPolicyPort, pod *core.Pod) []string {
	if len(ports) == 0 {
		return []string{""}
	}
	var matches []string
	for _, port := range ports {
		protocol := "tcp"
		if port.Protocol != nil {
			protocol = strings.ToLower(string(*port.Protocol))
		}
		switch {
		case port.Port == nil:
			matches = append(matches, "meta l4proto "+protocol)
		case port.Port.Type == intstr.String:
			for _, number := range namedPorts(pod, protocol, port.Port.StrVal) {
				matches = append(matches, fmt.Sprintf("%s dport %d", protocol, number))
			}
		case port.EndPort != nil:
			matches = append(matches, fmt.Sprintf("%s dport %d-%d", protocol, port.Port.IntVal, *port.EndPort))
		default:
			matches = append(matches, fmt.Sprintf("%s dport %d", protocol, port.Port.IntVal))
		}
	}
	return matches
}

func namedPorts(pod *core.Pod, protocol, name string) []int32 {
	var numbers []int32
	if pod == nil {
		return nil
	}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == name && strings.EqualFold(string(port.Protocol), protocol) {
				numbers = append(numbers, port.ContainerPort)
			}
		}
	}
	return numbers
}

// An invalid selector selects nothing; the API server accepts none.
func selects(selector *meta.LabelSelector, of map[string]string) bool {
	parsed, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(labels.Set(of))
}
