// Colors and words for emotions.

// Safe for color-blind readers (Okabe and Ito, 2008), in the order of the model's labels, as in annotated photos.
const COLORS = ["#0072b2", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#f0e442", "#bbbbbb"];
const DARK = ["#0072b2"];

const ADJECTIVES = {
  happiness: "happy",
  surprise: "surprised",
  sadness: "sad",
  anger: "angry",
  disgust: "disgusted",
  fear: "afraid",
  contempt: "contemptuous",
};

/** The color of a face's emotion, and one for text on it. */
export function colorOf(face, emotion = face.emotion) {
  const background = COLORS[Math.max(0, Object.keys(face.emotions).indexOf(emotion)) % COLORS.length];
  return { background, text: DARK.includes(background) ? "#ffffff" : "#000000" };
}

/** A count such as "14 happy". */
export function countWord(emotion, count) {
  return `${count} ${ADJECTIVES[emotion] ?? emotion}`;
}

/** The faces of an answer by emotion, such as "14 happy, 1 sad". */
export function countWords({ summary }) {
  return Object.entries(summary).map(([emotion, count]) => countWord(emotion, count)).join(", ");
}
