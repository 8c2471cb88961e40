"""Known vulnerabilities of the locked packages, by pip-audit; `make audit`. Exit status: 0 none, 1 some, 2 not all packages could be looked up."""
import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"


def judge(report: dict) -> tuple[int, str]:  # Exit status, and what to say
    "pip-audit passes over a package that its service does not answer for, and ends well; here that is no pass."
    packages = report.get("dependencies", [])
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [f"{p['name']} {p['version']}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'no version yet'}" for p in packages for v in p.get("vulns", [])]
    lines = found + [f"{len(packages) - len(unknown)} of {len(packages)} packages looked up, {len(found)} known vulnerabilities"]
    if unknown or not packages:
        lines.append(f"error: no answer for {', '.join(unknown[:3]) or 'any package'}, ...; the advisory service needs the network: try again with it")
    return 1 if found else 2 if unknown or not packages else 0, "\n".join(lines)


def main(program: str) -> int:
    done = subprocess.run([program, "--requirement", LOCK, "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"], capture_output=True, text=True)
    try:
        status, said = judge(json.loads(done.stdout))
    except ValueError:  # no report
        status, said = 2, f"error: pip-audit made no report ({' '.join(done.stderr.split())[-120:]}); it needs the network"
    print(said)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
