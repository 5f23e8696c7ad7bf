// The sizes, with their limits as the server has them.
export const sizes = [
  { value: "micro", label: "Micro: 0.2 CPU, 256 MiB" },
  { value: "small", label: "Small: 2 CPU, 2 GiB" },
  { value: "medium", label: "Medium: 4 CPU, 4 GiB" },
  { value: "large", label: "Large: 8 CPU, 8 GiB" },
];
