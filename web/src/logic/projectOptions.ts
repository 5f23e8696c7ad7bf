// Options of a project: its sizes, with the server's limits, and its templates.
export const sizes = [
  { value: "micro", label: "Micro: 0.2 CPU, 256 MiB" },
  { value: "small", label: "Small: 2 CPU, 2 GiB" },
  { value: "medium", label: "Medium: 4 CPU, 4 GiB" },
  { value: "large", label: "Large: 8 CPU, 8 GiB" },
];

export const templates = [
  { value: "web", label: "Web: Node, Python, Claude Code" },
  { value: "host", label: "Host: programs of this machine" },
  { value: "image", label: "Custom image" },
];
