// Geometry of the small usage charts: CPU usage from samples of a counter, and SVG points.

export interface Sample {
  /** Milliseconds. */
  at: number;
  /** Microseconds of CPU time since the start. */
  cpu: number;
  memory: number;
}

/** CPUs in use between each two samples. A counter that fell belongs to a sandbox that was restarted. */
export function cpuUsage(samples: Sample[]): number[] {
  const usage: number[] = [];
  for (let index = 1; index < samples.length; index++) {
    const before = samples[index - 1];
    const after = samples[index];
    if (!before || !after || after.at <= before.at) continue;
    usage.push(Math.max(0, after.cpu - before.cpu) / 1000 / (after.at - before.at));
  }
  return usage;
}

/** The points of an SVG polyline for up to `count` values; the newest is at the right edge. */
export function polylinePoints(values: number[], top: number, width: number, height: number, count: number): string {
  const step = width / (count - 1);
  return values
    .map((value, index) => {
      const x = width - (values.length - 1 - index) * step;
      const y = height - 1 - Math.min(1, value / top) * (height - 2);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
}

/** The points of an SVG polygon: the area between the polyline and the bottom edge. */
export function areaPoints(values: number[], top: number, width: number, height: number, count: number): string {
  const line = polylinePoints(values, top, width, height, count);
  if (line === "") return "";
  const first = line.split(" ", 1)[0]?.split(",", 1)[0];
  return `${first},${height} ${line} ${width.toFixed(1)},${height}`;
}

/** The values, preceded by copies of the first one up to `count`: a single sample would be an invisible point. */
export function padStart(values: number[], count: number): number[] {
  const first = values[0];
  if (first === undefined || values.length >= count) return values;
  return [...Array<number>(count - values.length).fill(first), ...values];
}
