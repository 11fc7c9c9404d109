/** The switch between branches: ‹ 2 / 3 ›. */

import { LeftOutlined, RightOutlined } from '@ant-design/icons'
import { Button } from 'antd'
import type { Message } from './api'

interface Props {
  name: string
  shown: Message
  siblings: Message[]
  onChoose: (message: Message) => void
}

export function Branches({ name, shown, siblings, onChoose }: Props) {
  if (siblings.length < 2) return null
  const index = siblings.findIndex(({ id }) => id === shown.id)
  const [before, after] = [siblings[index - 1], siblings[index + 1]]
  return (
    <span className="branches" role="group" aria-label={`${name}的版本`}>
      <Button type="text" size="small" icon={<LeftOutlined aria-hidden />} aria-label="上一版" disabled={!before} onClick={() => onChoose(before!)} />
      <span aria-live="polite">
        {index + 1} / {siblings.length}
      </span>
      <Button type="text" size="small" icon={<RightOutlined aria-hidden />} aria-label="下一版" disabled={!after} onClick={() => onChoose(after!)} />
    </span>
  )
}
