// What a project can be: the sizes, with their limits as the server has them, and what it is made from.
export const sizes = [
  { value: "micro", label: "Micro: 0.2 CPU, 256 MiB" },
  { value: "small", label: "Small: 2 CPU, 2 GiB" },
  { value: "medium", label: "Medium: 4 CPU, 4 GiB" },
  { value: "large", label: "Large: 8 CPU, 8 GiB" },
];

export const sources = [
  { value: "web", label: "Web: Node, Python, Claude Code" },
  { value: "host", label: "Host: this machine's programs" },
  { value: "image", label: "Another image" },
];
