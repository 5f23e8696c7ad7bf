package main

// The names and addresses of a cluster, all from the number of its slot. tests/cluster/lib.sh has the same list
// for scripts.

import "fmt"

const slots = 60

type addresses struct {
	machine, node  string // the two ends of the veth pair
	outside        string // simulates the public internet: the machine's end has it, and tests may serve there
	pods, services string
	bridge         string // the first address of the pods on the real node
}

func addressesOf(slot int) addresses {
	return addresses{
		machine:  fmt.Sprintf("10.127.%d.1", slot),
		node:     fmt.Sprintf("10.127.%d.2", slot),
		outside:  fmt.Sprintf("203.0.113.%d", slot+1),
		pods:     fmt.Sprintf("10.%d.0.0/16", 128+slot),
		bridge:   fmt.Sprintf("10.%d.0.1", 128+slot),
		services: fmt.Sprintf("10.%d.0.0/16", 192+slot),
	}
}

func machineLink(slot int) string { return fmt.Sprintf("fsacluster%d", slot) }
func cgroupName(slot int) string  { return fmt.Sprintf("fsa-cluster-%d", slot) }
