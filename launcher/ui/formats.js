// Transcripts as files, made of the lines as they stand: the same bytes as launcher/whisper/formats.py (a test compares).
"use strict";

(() => {
  const SHORTEST_MS = 10;
  const MIME = { txt: "text/plain", srt: "application/x-subrip", vtt: "text/vtt", json: "application/json", tsv: "text/tab-separated-values" };
  // Scripts without spaces between words, as in formats.py.
  const UNSPACED = /[\u0E00-\u109F\u1780-\u17FF\u2E80-\uABFF\uF900-\uFAFF\uFE30-\uFE4F\uFF00-\uFFEF\u{20000}-\u{3FFFF}]/u;
  // What Python takes for white space: JavaScript's \s has U+FEFF too, and lacks five control characters.
  const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;

  // What steers a terminal is no text.
  const CONTROLS = /[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]/g;

  const oneLine = (text) => text.replace(CONTROLS, "").split(SPACE).filter(Boolean).join(" ");
  const ms = (seconds) => Math.round(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const clock = (time_ms, point) => {
    const seconds = Math.floor(time_ms / 1000);
    const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
    return `${two(hours)}:${two(minutes)}:${two(seconds % 60)}${point}${String(time_ms % 1000).padStart(3, "0")}`;
  };

  const cues = (lines, cue) => {
    let [count, start] = [0, 0];
    return lines
      .map((line) => {
        const text = oneLine(line.text);
        if (!text) return "";
        count += 1;
        start = Math.max(ms(line.start), start);
        return cue(count, start, Math.max(ms(line.end), start + SHORTEST_MS), text);
      })
      .join("");
  };
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  const edge = (character) => SPACE.test(character);
  const apart = (before, after) => {
    const [last, first] = [[...before].at(-1) || "", [...after][0] || ""];
    return edge(last) || edge(first) || !(UNSPACED.test(last) || UNSPACED.test(first));
  };
  const flowing = (lines) => {
    let [whole, before] = ["", ""];
    for (const { text } of lines) {
      const said = oneLine(text);
      if (!said) continue;
      whole += (before && apart(before, text) ? " " : "") + said;
      before = text;
    }
    return whole;
  };

  const marks = (line) => line.marks || [];
  const KINDS = {
    txt: (lines) => lines.map(({ text }) => oneLine(text)).map((text) => (text ? text + "\n" : "")).join(""),
    srt: (lines) =>
      cues(lines, (count, start, end, text) =>
        `${count}\n${clock(start, ",")} --> ${clock(end, ",")}\n${text.replace(/-{2,}>/g, "->")}\n\n`,
      ),
    vtt: (lines) =>
      "WEBVTT\n\n" +
      cues(lines, (_, start, end, text) => `${clock(start, ".")} --> ${clock(end, ".")}\n${escaped(text)}\n\n`),
    tsv: (lines) =>
      "start\tend\ttext\tmarks\n" +
      lines.map((line) => `${ms(line.start)}\t${ms(line.end)}\t${oneLine(line.text)}\t${marks(line).join(",")}\n`).join(""),
    json: (lines, { language, duration, task, words }) => {
      const data = {
        task,
        language: language || "unknown",
        duration,
        text: flowing(lines),
        segments: lines.map((line, id) => ({
          id,
          seek: Math.round(line.start * 100),
          start: line.start,
          end: line.end,
          text: line.text,
          tokens: line.tokens || [],
          temperature: line.temperature ?? 0,
          avg_logprob: line.avg_logprob ?? 0,
          compression_ratio: line.compression_ratio ?? 1,
          no_speech_prob: line.no_speech_prob ?? 0,
          marks: marks(line),
        })),
      };
      if (words) data.words = lines.flatMap((line) => line.words || []);
      return JSON.stringify({ ...data, usage: { type: "duration", seconds: duration } }, null, 2) + "\n";
    },
  };

  // `about`: language (its English name), duration in seconds, task, and whether words were asked for.
  page.written = (kind, lines, about) => KINDS[kind](lines, about);
  page.flowing = flowing;
  page.oneLine = oneLine;

  page.download = (name, type, parts) => {
    const link = document.createElement("a");
    link.download = name.replace(/[/\\:*?"<>|\p{Cc}]/gu, "-");
    link.href = URL.createObjectURL(new Blob(parts, { type }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    page.speak(`Saved as ${link.download}.`);
  };
  page.save = (kind, name, lines, about) => page.download(`${name}.${kind}`, MIME[kind], [page.written(kind, lines, about)]);
})();
