/** The emergency notice, on top of its conversation; its numbers call. */

import { splitNumbers } from './words'

export function Notice({ lines }: { lines: string[] }) {
  if (lines.length === 0) return null
  return (
    <div className="notice" role="alert">
      {lines.map((line) => (
        <p key={line}>
          {splitNumbers(line).map((part, index) =>
            index % 2 ? (
              <a key={index} href={`tel:${part}`}>
                {part}
              </a>
            ) : (
              part
            ),
          )}
        </p>
      ))}
    </div>
  )
}
