"""Makes docs/explore.png and docs/explore.gif: headless Chromium opens `lwd explore`, a hand pushes the block, the policies come back.

python benchmarks/page.py            # needs chromium and chromedriver (Debian: chromium, chromium-driver)
"""

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains

from lwd.report.video import save_gif

DOCS = Path(__file__).parents[1] / "docs"
SECONDS, FPS = 14.0, 5.0
PUSHES = {3.0: (70, 40), 8.0: (-80, 50)}  # second -> pixels


def main() -> None:
    """Starts the server, looks, and ends it."""
    options = webdriver.ChromeOptions()
    for name in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "window-size=1200,1250"):
        options.add_argument(f"--{name}")
    command = [sys.executable, "-m", "lwd.cli", "explore", "--port", "0", "--no-browser", "--seed", "3"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        assert server.stdout is not None
        driver.get(server.stdout.readline().split(" at ")[1].split()[0])
        while not driver.execute_script("return sides.length && sides[0].history.length > 60"):
            time.sleep(0.1)
        driver.execute_script(
            "document.getElementById('replan_every').value = 4; document.getElementById('speed').value = 2; settings(); setRunning(true)"
        )
        frames, begin, waiting = [], time.monotonic(), dict(PUSHES)
        while (now := time.monotonic() - begin) < SECONDS:
            if waiting and now > min(waiting):
                push(driver, waiting.pop(min(waiting)))
            frames.append((now, np.asarray(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB"))))
        times = np.array([second for second, _ in frames])
        even = [frames[int(np.abs(times - second).argmin())][1] for second in np.arange(0, SECONDS, 1 / FPS)]
        save_gif(even, DOCS / "explore.gif", FPS, size=760)
        Image.fromarray(even[-1]).quantize(128).save(DOCS / "explore.png", optimize=True)
        print(len(frames), "pictures;", *(f"{path} {path.stat().st_size}" for path in (DOCS / "explore.gif", DOCS / "explore.png")))
    finally:
        driver.quit()
        server.terminate()


def push(driver: webdriver.Chrome, by: tuple[int, int]) -> None:
    """Drags the block of the first side."""
    block = np.array(driver.execute_script("return sides[0].to.polygons.block"))
    canvas = driver.execute_script("return sides[0].canvas")
    inside = (0.6 * block[[0, 1]].mean(0) + 0.4 * block[[4, 5]].mean(0) - 0.5) * canvas.size["width"]
    chain = ActionChains(driver, duration=50).move_to_element_with_offset(canvas, *inside.astype(int).tolist()).click_and_hold()
    for _ in range(4):
        chain = chain.move_by_offset(by[0] // 4, by[1] // 4)
    chain.release().perform()


if __name__ == "__main__":
    main()
