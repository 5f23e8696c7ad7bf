package main

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func somePod(namespace, name, address string) *core.Pod {
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: core.PodSpec{NodeName: "n", Containers: []core.Container{{
			Ports: []core.ContainerPort{{Name: "web", ContainerPort: 3000, Protocol: core.ProtocolTCP}},
		}}},
		Status: core.PodStatus{PodIP: address, Phase: core.PodRunning},
	}
}

func someWorld(policies ...*networking.NetworkPolicy) *world {
	return &world{
		node:     "n",
		policies: policies,
		pods:     []*core.Pod{somePod("a", "box", "10.0.0.1"), somePod("a", "friend", "10.0.0.2"), somePod("b", "gate", "10.0.0.3")},
		namespaces: []*core.Namespace{
			{ObjectMeta: meta.ObjectMeta{Name: "a"}},
			{ObjectMeta: meta.ObjectMeta{Name: "b", Labels: map[string]string{"kind": "gateway"}}},
		},
	}
}

func policyFor(app string, types ...networking.PolicyType) *networking.NetworkPolicy {
	return &networking.NetworkPolicy{
		ObjectMeta: meta.ObjectMeta{Namespace: "a", Name: "p"},
		Spec: networking.NetworkPolicySpec{
			PodSelector: meta.LabelSelector{MatchLabels: map[string]string{"app": app}}, PolicyTypes: types,
		},
	}
}

func expect(t *testing.T, rules string, expected ...string) {
	t.Helper()
	for _, line := range expected {
		if !strings.Contains(rules, line) {
			t.Errorf("this line is missing: %s\nin\n%s", line, rules)
		}
	}
}

func TestPodsThatNoPolicySelectsAreLeftAlone(t *testing.T) {
	rules := someWorld(policyFor("other", networking.PolicyTypeIngress)).rules()
	if strings.Contains(rules, "10.0.0.") {
		t.Errorf("a pod is in the rules that no policy selects:\n%s", rules)
	}
}

func TestASelectedPodIsReachedByItsPeersAlone(t *testing.T) {
	policy := policyFor("box", networking.PolicyTypeIngress)
	policy.Spec.Ingress = []networking.NetworkPolicyIngressRule{{
		From: []networking.NetworkPolicyPeer{
			{NamespaceSelector: &meta.LabelSelector{MatchLabels: map[string]string{"kind": "gateway"}}},
			{PodSelector: &meta.LabelSelector{MatchLabels: map[string]string{"app": "gate"}}}, // in the policy's namespace: none
		},
		Ports: []networking.NetworkPolicyPort{{Port: &intstr.IntOrString{Type: intstr.String, StrVal: "web"}}},
	}}
	rules := someWorld(policy).rules()
	expect(t, rules, "ip saddr { 10.0.0.3 } tcp dport 3000 return\n\t\tcounter drop",
		"ip daddr vmap { 10.0.0.1 : jump ingress_10_0_0_1 }")
	if strings.Contains(rules, "egress_") {
		t.Errorf("a policy for ingress alone closes egress:\n%s", rules)
	}
}

func TestEgressKnowsBlocksWithExceptionsAndRangesOfPorts(t *testing.T) {
	policy := policyFor("box", networking.PolicyTypeEgress)
	last, udp := int32(90), core.ProtocolUDP
	policy.Spec.Egress = []networking.NetworkPolicyEgressRule{{
		To:    []networking.NetworkPolicyPeer{{IPBlock: &networking.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8", "169.254.0.0/16"}}}},
		Ports: []networking.NetworkPolicyPort{{Port: &intstr.IntOrString{IntVal: 80}, EndPort: &last}},
	}, {
		Ports: []networking.NetworkPolicyPort{{Protocol: &udp, Port: &intstr.IntOrString{IntVal: 53}}},
	}}
	rules := someWorld(policy).rules()
	expect(t, rules, "ip daddr 0.0.0.0/0 ip daddr != { 10.0.0.0/8, 169.254.0.0/16 } tcp dport 80-90 return",
		"\t\tudp dport 53 return")
	// What the node itself answers (its API, a metadata service) is egress too.
	if strings.Count(rules, "ip saddr vmap { 10.0.0.1 : jump egress_10_0_0_1 }") != 2 {
		t.Errorf("egress is to be asked on the way through and on the way in:\n%s", rules)
	}
}

func TestFinishedPodsAndOtherNodesHaveNoRules(t *testing.T) {
	w := someWorld(policyFor("box", networking.PolicyTypeIngress))
	w.pods[0].Status.Phase = core.PodSucceeded
	other := somePod("a", "box", "10.0.1.1")
	other.Spec.NodeName = "elsewhere"
	w.pods = append(w.pods, other)
	if rules := w.rules(); strings.Contains(rules, "chain ingress_") {
		t.Errorf("a pod that is not here is guarded:\n%s", rules)
	}
}
